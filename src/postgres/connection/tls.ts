// How a connection is encrypted, in Node's words: what libpq means by sslmode.

import { readFileSync } from "node:fs";
import type { ConnectionOptions } from "node:tls";
import { readSecret } from "./secret-file.ts";
import type { TlsSettings } from "./url.ts";

/** What to give pg; `false`: not encrypted. Reads the files anew each time: they are renewed while ledgerd runs. */
export function tlsOf(host: string, { mode, rootCert, cert, key, keyPassword }: TlsSettings): false | ConnectionOptions {
  // A socket in the file system leads nowhere else.
  if (mode === "disable" || host.startsWith("/")) return false;
  return {
    // Without a certificate of an authority nobody can be verified, and `require` is content with being encrypted.
    rejectUnauthorized: rootCert !== undefined,
    ...(rootCert === undefined || rootCert === "system" ? {} : { ca: readFileSync(rootCert) }),
    ...(mode === "verify-full" ? {} : { checkServerIdentity: () => undefined }),
    ...(cert === undefined ? {} : { cert: readFileSync(cert) }),
    ...(key === undefined ? {} : { key: readSecret(key, "key") }),
    ...(keyPassword === undefined ? {} : { passphrase: keyPassword }),
  };
}
