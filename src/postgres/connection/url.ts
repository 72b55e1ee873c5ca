// A database's URL, read as libpq reads it: https://www.postgresql.org/docs/18/libpq-connect.html
//
// By ourselves, once for all connections: pg and Slonik read the same URL in two ways of their own, and left out
// silently what they didn't know. What isn't supported is refused by its name.

import { userInfo } from "node:os";

/** Where a server may be. */
export interface Host {
  /** A name, an address, or the folder of the server's socket. */
  readonly host: string;
  readonly port: number;
}

/** Whether and how a connection is encrypted, in libpq's words; files by their paths. */
export interface TlsSettings {
  readonly mode: "disable" | "prefer" | "require" | "verify-ca" | "verify-full";
  /** The authorities that servers' certificates must come from: a file, or `system`. */
  readonly rootCert: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
  readonly keyPassword: string | undefined;
  /** Without asking the server first, which only PostgreSQL 17 and later take. */
  readonly isDirect: boolean;
}

/** What a URL says. */
export interface Target {
  /** At least one; each is tried, in this order. */
  readonly hosts: readonly Host[];
  readonly user: string;
  readonly database: string;
  readonly password: string | undefined;
  /** Where to look for the password, if the URL has none; absent: `.pgpass` in the home folder, if it is there. */
  readonly passFile: string | undefined;
  readonly tls: TlsSettings;
  /** Settings for the session, as `-c name=value`. */
  readonly options: string | undefined;
  /** For each host. */
  readonly connectTimeoutMs: number | undefined;
  /** Whether hosts that take no writes are passed over. */
  readonly mustTakeWrites: boolean;
}

/** The URL can't be used; the message says which part of it, and what to write instead, without any secret. */
export class UrlProblem extends Error {}

const EXAMPLE = "such as postgres://user:password@host:5432/database";
const DEFAULT_PORT = 5432;
const MODES = ["disable", "prefer", "require", "verify-ca", "verify-full"] as const;

/** What is wrong with a URL; undefined if it can be used. */
export function problemOfUrl(text: string): string | undefined {
  try {
    readUrl(text);
    return undefined;
  } catch (error) {
    if (error instanceof UrlProblem) return error.message;
    throw error;
  }
}

/** Reads a URL. Throws `UrlProblem`. */
export function readUrl(text: string): Target {
  const { authority, path, query } = partsOf(text);
  const parameters = parametersOf(query);
  const take = (name: string): string | undefined => {
    const value = parameters.get(name);
    parameters.delete(name);
    return value === "" ? undefined : value;
  };
  const at = authority.lastIndexOf("@");
  const [givenUser, givenPassword] = credentialsOf(authority.slice(0, Math.max(at, 0)));
  const user = take("user") ?? givenUser ?? systemUser();
  const hosts = hostsOf(authority.slice(at + 1), take("host"), take("port"));
  const target: Target = {
    hosts,
    user,
    database: take("dbname") ?? (path === "" ? user : decoded(path, "the database's name")),
    password: take("password") ?? givenPassword,
    passFile: take("passfile"),
    tls: tlsOf(take),
    options: take("options"),
    connectTimeoutMs: secondsOf(take("connect_timeout")),
    mustTakeWrites: mustTakeWrites(take("target_session_attrs"), hosts.length),
  };
  refuseOthers(parameters);
  return target;
}

/** A URL that takes its password from this file, unless it has one, or names a file itself. */
export function withPassFile(text: string, file: string): string {
  const { password, passFile } = readUrl(text);
  if (password !== undefined || passFile !== undefined) return text;
  return `${text}${text.includes("?") ? "&" : "?"}passfile=${encodeURIComponent(file)}`;
}

/** What to show of a URL: no password, and no parameters, which may hold one. */
export function withoutSecrets(text: string): string {
  const { hosts, user, database } = readUrl(text);
  const places = hosts.map(
    ({ host, port }) => `${host.includes(":") ? `[${host}]` : encodeURIComponent(host)}:${port}`,
  );
  return `postgres://${encodeURIComponent(user)}@${places.join(",")}/${encodeURIComponent(database)}`;
}

function partsOf(text: string): { authority: string; path: string; query: string } {
  const parts = /^postgres(?:ql)?:\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/.exec(text);
  if (parts === null) throw new UrlProblem(`must be a URL ${EXAMPLE}`);
  const [, authority = "", path = "", query = ""] = parts;
  return { authority, path, query };
}

function parametersOf(query: string): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const pair of query === "" ? [] : query.split("&")) {
    const [name = "", ...value] = pair.split("=");
    const known = decoded(name, "a parameter's name");
    if (value.length === 0) throw new UrlProblem(`must have its parameters as name=value; ${known} has no value`);
    if (parameters.has(known)) throw new UrlProblem(`must name the parameter ${known} once`);
    parameters.set(known, decoded(value.join("="), known));
  }
  return parameters;
}

/** Who runs this; a container may run as somebody without a name. */
function systemUser(): string {
  try {
    return userInfo().username;
  } catch {
    throw new UrlProblem(`must name a user, ${EXAMPLE}`);
  }
}

function credentialsOf(text: string): readonly [user: string | undefined, password: string | undefined] {
  if (text === "") return [undefined, undefined];
  const colon = text.indexOf(":");
  const user = decoded(colon < 0 ? text : text.slice(0, colon), "the user's name");
  const password = colon < 0 ? undefined : decoded(text.slice(colon + 1), "the password");
  return [user === "" ? undefined : user, password === "" ? undefined : password];
}

/** `host1:port1,host2:port2`; in parameters as `host=…,…` and `port=…,…`, or one port for all. */
function hostsOf(
  authority: string,
  hostParameter: string | undefined,
  portParameter: string | undefined,
): readonly Host[] {
  const given = authority === "" ? [] : authority.split(",").map(placeOf);
  const names = hostParameter === undefined ? given.map(({ host }) => host) : hostParameter.split(",");
  const ports = portParameter === undefined ? given.map(({ port }) => port) : portParameter.split(",");
  if (ports.length > 1 && ports.length !== names.length) {
    throw new UrlProblem("must have one port for all hosts, or one for each");
  }
  const hosts = names.map((host, index) => ({ host, port: portOf(ports.length === 1 ? ports[0] : ports[index]) }));
  if (hosts.length === 0 || hosts.some(({ host }) => host === "")) {
    throw new UrlProblem(
      `must name a host, ${EXAMPLE}; a socket by its folder: postgres://user@%2Fvar%2Frun%2Fpostgresql/database`,
    );
  }
  return hosts;
}

function placeOf(text: string): { host: string; port: string } {
  const parts = /^(?:\[([^\]]*)\]|([^:]*))(?::([^:]*))?$/.exec(text);
  if (parts === null) {
    throw new UrlProblem(`must have its hosts as host:port, and an IPv6 address in brackets, ${EXAMPLE}`);
  }
  const [, address, name = "", port = ""] = parts;
  return { host: address ?? decoded(name, "the host"), port };
}

function portOf(text: string | undefined): number {
  if (text === undefined || text === "") return DEFAULT_PORT;
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535) throw new UrlProblem(`must have a port from 1 to 65535, ${EXAMPLE}`);
  return port;
}

function tlsOf(take: (name: string) => string | undefined): TlsSettings {
  const mode = take("sslmode") ?? "prefer";
  if (!isMode(mode)) throw new UrlProblem(`must have one of these as sslmode: ${MODES.join(", ")}`);
  const negotiation = oneOf("sslnegotiation", take("sslnegotiation"), ["postgres", "direct"]);
  const tls: TlsSettings = {
    mode,
    rootCert: take("sslrootcert"),
    cert: take("sslcert"),
    key: take("sslkey"),
    keyPassword: take("sslpassword"),
    isDirect: negotiation === "direct",
  };
  const problem = problemOfTls(tls);
  if (problem !== undefined) throw new UrlProblem(problem);
  return tls;
}

function problemOfTls({ mode, rootCert, cert, key, isDirect }: TlsSettings): string | undefined {
  if (mode.startsWith("verify-") && rootCert === undefined) {
    return `must say by sslrootcert whom sslmode=${mode} trusts: a file with the authority's certificate, or system`;
  }
  if (rootCert === "system" && mode !== "verify-full") {
    return "must have sslmode=verify-full with sslrootcert=system: anybody can get a certificate of those authorities";
  }
  if ((cert === undefined) !== (key === undefined)) return "must have both sslcert and sslkey, or neither";
  if (isDirect && (mode === "disable" || mode === "prefer")) {
    return "must have sslmode=require, verify-ca or verify-full with sslnegotiation=direct";
  }
  return undefined;
}

function isMode(text: string): text is TlsSettings["mode"] {
  return (MODES as readonly string[]).includes(text);
}

function secondsOf(text: string | undefined): number | undefined {
  if (text === undefined || text === "0") return undefined;
  if (!/^\d{1,6}$/.test(text)) throw new UrlProblem("must have whole seconds as connect_timeout, such as 10");
  return Number(text) * 1000;
}

/** Of several hosts, by default, the one that takes writes: unlike libpq, which takes the first that answers. */
function mustTakeWrites(wanted: string | undefined, hosts: number): boolean {
  const attrs = oneOf("target_session_attrs", wanted, ["any", "read-write", "primary"]);
  return attrs === undefined ? hosts > 1 : attrs !== "any";
}

/** Parameters that change nothing here, with the values that say so. */
const idle: Readonly<Record<string, readonly string[] | undefined>> = {
  client_encoding: ["UTF8", "utf8", "UTF-8", "auto"],
  channel_binding: ["disable", "prefer"],
  gssencmode: ["disable", "prefer"],
  load_balance_hosts: ["disable"],
  sslcompression: ["0"],
  sslsni: ["1"],
  keepalives: ["1"],
};

/** Parameters that ledgerd decides on, and why. */
const own: Readonly<Record<string, string | undefined>> = {
  application_name: "since ledgerd names its sessions itself, and knows them by their names",
  fallback_application_name: "since ledgerd names its sessions itself, and knows them by their names",
};

function refuseOthers(parameters: ReadonlyMap<string, string>): void {
  for (const [name, value] of parameters) {
    const values = idle[name];
    if (values === undefined) {
      const why = own[name] ?? "which ledgerd doesn't support";
      throw new UrlProblem(`must not have the parameter ${name}, ${why}`);
    }
    oneOf(name, value, values);
  }
}

function oneOf(name: string, value: string | undefined, values: readonly string[]): string | undefined {
  if (value !== undefined && !values.includes(value)) {
    throw new UrlProblem(`must have ${values.join(" or ")} as ${name}; ledgerd supports nothing else`);
  }
  return value;
}

function decoded(text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new UrlProblem(`must have ${what} percent-encoded: % as %25`);
  }
}
