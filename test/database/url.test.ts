// A database's URL is read once, by us, as libpq reads it; what isn't supported is refused by name.

import { describe, expect, test } from "vitest";
import { problemOfUrl, readUrl, withoutSecrets, withPassFile, type Target, type TlsSettings } from "../../src/postgres/connection/url.ts";

const plain: TlsSettings = {
  mode: "prefer",
  rootCert: undefined,
  cert: undefined,
  key: undefined,
  keyPassword: undefined,
  isDirect: false,
};

const usual: Target = {
  hosts: [{ host: "h", port: 5432 }],
  user: "u",
  database: "d",
  password: undefined,
  passFile: undefined,
  tls: plain,
  options: undefined,
  connectTimeoutMs: undefined,
  mustTakeWrites: false,
};

describe("a URL is read as libpq reads it:", () => {
  const socket = "/var/run/postgresql";
  test.each<[string, Partial<Target>]>([
    ["postgres://u@h/d", {}],
    ["postgresql://u@h:5433/d", { hosts: [{ host: "h", port: 5433 }] }],
    ["postgres://u:p%40%3A%2F@h/d", { password: "p@:/" }],
    ["postgres://u:p@ss@h/d", { password: "p@ss" }],
    ["postgres://%75@h/%64", {}],
    ["postgres://u@h", { database: "u" }],
    ["postgres://u@[::1]:5433/d", { hosts: [{ host: "::1", port: 5433 }] }],
    ["postgres://u@%2Fvar%2Frun%2Fpostgresql/d", { hosts: [{ host: socket, port: 5432 }] }],
    ["postgres://u@%2Fvar%2Frun%2Fpostgresql:5433/d", { hosts: [{ host: socket, port: 5433 }] }],
    ["postgres://u@/d?host=/var/run/postgresql&port=5433", { hosts: [{ host: socket, port: 5433 }] }],
    ["postgres:///?host=h&user=u&dbname=d&password=p", { password: "p" }],
    ["postgres://u@one:1,two/d", { hosts: [{ host: "one", port: 1 }, { host: "two", port: 5432 }], mustTakeWrites: true }],
    ["postgres://u@/d?host=one,two&port=7", { hosts: [{ host: "one", port: 7 }, { host: "two", port: 7 }], mustTakeWrites: true }],
    ["postgres://u@one,two/d?target_session_attrs=any", { hosts: [{ host: "one", port: 5432 }, { host: "two", port: 5432 }] }],
    ["postgres://u@h/d?target_session_attrs=read-write", { mustTakeWrites: true }],
    ["postgres://u@h/d?target_session_attrs=primary", { mustTakeWrites: true }],
    ["postgres://u@h/d?sslmode=disable", { tls: { ...plain, mode: "disable" } }],
    ["postgres://u@h/d?sslmode=require", { tls: { ...plain, mode: "require" } }],
    ["postgres://u@h/d?sslmode=verify-ca&sslrootcert=/ca.crt", { tls: { ...plain, mode: "verify-ca", rootCert: "/ca.crt" } }],
    ["postgres://u@h/d?sslmode=verify-full&sslrootcert=system", { tls: { ...plain, mode: "verify-full", rootCert: "system" } }],
    [
      "postgres://u@h/d?sslmode=require&sslcert=/c&sslkey=/k&sslpassword=s",
      { tls: { ...plain, mode: "require", cert: "/c", key: "/k", keyPassword: "s" } },
    ],
    ["postgres://u@h/d?sslmode=require&sslnegotiation=direct", { tls: { ...plain, mode: "require", isDirect: true } }],
    ["postgres://u@h/d?options=-c%20work_mem%3D8MB", { options: "-c work_mem=8MB" }],
    ["postgres://u@h/d?connect_timeout=3", { connectTimeoutMs: 3000 }],
    ["postgres://u@h/d?connect_timeout=0", {}],
    ["postgres://u@h/d?passfile=/p", { passFile: "/p" }],
    ["postgres://u@h/d?client_encoding=UTF8&gssencmode=prefer&channel_binding=prefer&sslsni=1&keepalives=1", {}],
  ])("%s", (url, expected) => {
    expect(readUrl(url)).toEqual({ ...usual, ...expected });
  });
});

describe("what can't be used is refused by its name:", () => {
  test.each([
    ["nonsense", "must be a URL such as postgres://user:password@host:5432/database"],
    ["mysql://u@h/d", "must be a URL such as"],
    ["postgres://u:s3#cret@h/d", "must be a URL such as"],
    ["postgres://u@h:port/d", "a port from 1 to 65535"],
    ["postgres://u@h:0/d", "a port from 1 to 65535"],
    ["postgres://u@h:65536/d", "a port from 1 to 65535"],
    ["postgres://u@::1/d", "an IPv6 address in brackets"],
    ["postgres://u:100%@h/d", "the password percent-encoded"],
    ["postgres://u@/d", "must name a host"],
    ["postgres://u@one,/d", "must name a host"],
    ["postgres://u@a,b,c/d?port=1,2", "one port for all hosts, or one for each"],
    ["postgres://u@h/d?sslmode=allow", "disable, prefer, require, verify-ca, verify-full"],
    ["postgres://u@h/d?sslmode=no-verify", "disable, prefer, require, verify-ca, verify-full"],
    ["postgres://u@h/d?sslmode=verify-full", "must say by sslrootcert whom sslmode=verify-full trusts"],
    ["postgres://u@h/d?sslmode=verify-ca", "must say by sslrootcert whom sslmode=verify-ca trusts"],
    ["postgres://u@h/d?sslmode=require&sslrootcert=system", "must have sslmode=verify-full with sslrootcert=system"],
    ["postgres://u@h/d?sslcert=/c", "must have both sslcert and sslkey"],
    ["postgres://u@h/d?sslnegotiation=direct", "with sslnegotiation=direct"],
    ["postgres://u@h/d?target_session_attrs=standby", "any or read-write or primary as target_session_attrs"],
    ["postgres://u@h/d?target_session_attrs=prefer-standby", "any or read-write or primary as target_session_attrs"],
    ["postgres://u@h/d?connect_timeout=soon", "whole seconds as connect_timeout"],
    ["postgres://u@h/d?application_name=mine", "must not have the parameter application_name, since ledgerd names its"],
    ["postgres://u@h/d?channel_binding=require", "disable or prefer as channel_binding"],
    ["postgres://u@h/d?gssencmode=require", "disable or prefer as gssencmode"],
    ["postgres://u@h/d?load_balance_hosts=random", "disable as load_balance_hosts"],
    ["postgres://u@h/d?client_encoding=WIN1251", "UTF8 or utf8 or UTF-8 or auto as client_encoding"],
    ["postgres://u@h/d?krbsrvname=x", "must not have the parameter krbsrvname, which ledgerd doesn't support"],
    ["postgres://u@h/d?sslmode=require&sslmode=disable", "the parameter sslmode once"],
    ["postgres://u@h/d?sslmode", "sslmode has no value"],
  ])("%s", (url, expected) => {
    expect(problemOfUrl(url)).toContain(expected);
    expect(problemOfUrl(url)).toMatch(/^must /);
  });

  test("without a word of the password", () => {
    const problem = problemOfUrl("postgres://u:s3cret@h/d?password=s3cret&sslpassword=s3cret&unknown=s3cret");
    expect(problem).not.toContain("s3cret");
  });
});

test("what is shown of a URL has no secrets", () => {
  expect(withoutSecrets("postgres://u:s3cret@one:1,[::1]/d?password=s3cret&passfile=/x")).toBe("postgres://u@one:1,[::1]:5432/d");
  expect(withoutSecrets("postgres://u@%2Frun%2Fp/d")).toBe("postgres://u@%2Frun%2Fp:5432/d");
});

test("a file of passwords is for URLs that have neither a password nor a file", () => {
  expect(readUrl(withPassFile("postgres://u@h/d", "/a b&c")).passFile).toBe("/a b&c");
  expect(readUrl(withPassFile("postgres://u@h/d?sslmode=disable", "/p")).passFile).toBe("/p");
  expect(withPassFile("postgres://u:p@h/d", "/p")).toBe("postgres://u:p@h/d");
  expect(withPassFile("postgres://u@h/d?passfile=/q", "/p")).toBe("postgres://u@h/d?passfile=/q");
});
