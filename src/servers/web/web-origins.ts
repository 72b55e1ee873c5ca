// Who may call the web port: by which names, and from which pages of the web.
//
// A browser sends what any page tells it to, also to addresses that only its own machine reaches. What a page can't
// choose are these headers, which the browser writes:
//
// - `Host`, the name in the address. A page whose own name leads to this machine (DNS rebinding) is of one origin with
//   us for its browser, but has to call us by that name. So IP addresses and names of the loopback pass, and other
//   names where a setting lists them.
// - `Origin`, where the page is from, and `Sec-Fetch-Site`, how that relates to us. A page of another origin passes
//   where a setting lists it.
//
// A caller that is no browser sends neither of the latter, and is asked for nothing.

import type { IncomingMessage } from "node:http";
import { isIP } from "node:net";
import type { ConnectError } from "@connectrpc/connect";
import { quote } from "../../domain/text.ts";
import { errorOf } from "../../rpc/errors.ts";

/** What the settings say. */
export interface WebAccess {
  /** Names in lower case, each with or without a port. */
  readonly hosts: readonly string[];
  /** As browsers send them. */
  readonly origins: readonly string[];
}

/** A request that may go on: `origin` is that of a page elsewhere that may read the answer. */
interface Admitted {
  readonly origin: string | undefined;
}

/** Whether requests may go on, or why they are refused. */
export type Admit = (request: IncomingMessage) => Admitted | ConnectError;

/** What admits requests, whatever their method and their path. */
export function admitBy(access: WebAccess): Admit {
  const hosts = new Set(access.hosts);
  const origins = new Set(access.origins);
  return (request) => {
    const host = hostOf(request);
    if (typeof host !== "string") return host;
    if (!isOurs(host, hosts))
      return errorOf("NOT_ADMITTED", `${quote(host)} is none of the names of this port: ${HOSTS}`);
    const { origin, "sec-fetch-site": site = "none" } = request.headers;
    if (origin !== undefined && origins.has(origin)) return { origin };
    const isForeign = origin !== undefined && origin !== `http://${host}` && origin !== `https://${host}`;
    if (isForeign) return errorOf("NOT_ADMITTED", `pages of ${quote(origin)} may not call here: ${ORIGINS}`);
    if (site !== "none" && site !== "same-origin")
      return errorOf("NOT_ADMITTED", `a page elsewhere sent this: ${ORIGINS}`);
    return { origin: undefined };
  };
}

const HOSTS = "if it is right, list it in the setting LEDGERD_WEB_HOSTS";
const ORIGINS = "if they are yours, list their origin in the setting LEDGERD_WEB_ORIGINS";

/** The one header `Host`, in lower case, or what is wrong with it. */
function hostOf({ headersDistinct }: IncomingMessage): string | ConnectError {
  const hosts = headersDistinct["host"] ?? [];
  const [host = ""] = hosts;
  if (hosts.length !== 1)
    return errorOf("NOT_ADMITTED", `a request must have the header Host once, not ${hosts.length} times`);
  return host.toLowerCase();
}

const named = /^(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?$/;

function isOurs(host: string, listed: ReadonlySet<string>): boolean {
  const [, given = "", port = ""] = named.exec(host) ?? [];
  // What no browser takes for a host would be one for nobody.
  if (given === "" || !URL.canParse(`http://${host}`)) return false;
  // A name of DNS may end with a dot, which says that nothing is to be added to it.
  const name = given.replace(/\.$/, "");
  if (isIP(name.replace(/^\[|\]$/g, "")) !== 0 || name === "localhost" || name.endsWith(".localhost")) return true;
  return listed.has(name) || listed.has(name + port);
}
