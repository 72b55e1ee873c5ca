// An instance's readiness, as a load balancer asks for it.

import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Health, HealthCheckResponse_ServingStatus as Status } from "../../src/gen/grpc/health/v1/health_pb.ts";

/** Asks the instance at an address whether it can take calls. */
export function readinessOf(grpcAddress: string): () => Promise<boolean> {
  const client = createClient(Health, createGrpcTransport({ baseUrl: `http://${grpcAddress}` }));
  return async () => (await client.check({ service: "" })).status === Status.SERVING;
}
