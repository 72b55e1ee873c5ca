// As whom a test's service logs in: as an operator's should, though the test's own sessions are a superuser's.

import { SERVING_LOGIN } from "../../src/postgres/embedded/embedded-access.ts";

type Settings = Readonly<Record<string, string>>;

/** The same database by the login that serves: every server of the tests has it. */
export function servingUrl(url: string): string {
  return url.replace("//postgres@", `//${SERVING_LOGIN}@`);
}

/** These settings, with two logins in place of the superuser's; unless the test itself says who may do what. */
export function withLogins(settings: Settings): Settings {
  const url = settings["DATABASE_URL"] ?? "";
  const isSaid = "LEDGERD_SEPARATION" in settings || "LEDGERD_MIGRATION_URL" in settings;
  if (isSaid || servingUrl(url) === url) return settings;
  return { ...settings, DATABASE_URL: servingUrl(url), LEDGERD_MIGRATION_URL: url };
}
