// One attack, in a process of its own: node attacker.ts <attack> <gRPC's host:port> <HTTP's host:port>

import { attackCalled } from "./attack.ts";

const [name = "", grpcAddress = "", httpAddress = ""] = process.argv.slice(2);
const { run } = await attackCalled(name);
await run({ grpcAddress, httpAddress });
