// What a login could do beyond what serving takes: whoever got hold of a session of it, by a fault of ours perhaps, could
// become another role by SET ROLE, and change the log.
//
// Each role is asked that the login is a member of, directly or through others, whether it inherits from it or not:
// `SET ROLE` asks for no more, and who may only administer a membership may give it to itself.

import type pg from "pg";

/** What a login could do. */
export interface Powers {
  readonly login: string;
  /** In words that go on where `the login x` ends; empty: no more than it takes to serve. */
  readonly beyond: readonly string[];
}

/** Asks what this session's login could do: of what it could, the worst alone. */
export async function powersOf(client: pg.Client): Promise<Powers> {
  const { rows } = await client.query<{ login: string; name: string; power: string }>(`
  WITH login AS (
    SELECT r.oid, r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user
  ), becomes AS (
    SELECT r.oid, r.rolname AS name, r.rolsuper, r.rolcreaterole
    FROM login l JOIN pg_catalog.pg_roles r
      ON r.oid = l.oid OR NOT l.rolsuper AND pg_catalog.pg_has_role(l.oid, r.oid, 'MEMBER')
  ), ours AS (
    SELECT n.oid, n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'ledgerd'
  ), powers (rank, name, power) AS (
    SELECT 1, b.name, 'is a superuser' FROM becomes b WHERE b.rolsuper
    UNION SELECT 2, b.name, 'may make roles (CREATEROLE)' FROM becomes b WHERE b.rolcreaterole
    UNION SELECT 2, b.name, 'owns the ledger' FROM becomes b WHERE b.name = 'ledgerd_migrator'
    UNION SELECT 2, b.name, 'owns the database'
      FROM becomes b JOIN pg_catalog.pg_database d ON d.datdba = b.oid WHERE d.datname = pg_catalog.current_database()
    UNION SELECT 2, b.name, 'owns the schema ledgerd'
      FROM becomes b JOIN ours o ON o.nspowner = b.oid WHERE b.name <> 'ledgerd_migrator'
    UNION SELECT 2, b.name, 'owns a table of the schema ledgerd'
      FROM becomes b JOIN pg_catalog.pg_class c ON c.relowner = b.oid JOIN ours o ON o.oid = c.relnamespace
      WHERE b.name <> 'ledgerd_migrator'
    UNION SELECT 2, b.name, 'owns a function of the schema ledgerd'
      FROM becomes b JOIN pg_catalog.pg_proc p ON p.proowner = b.oid JOIN ours o ON o.oid = p.pronamespace
      WHERE b.name <> 'ledgerd_migrator'
    UNION SELECT 2, b.name, predefined.power
      FROM becomes b JOIN (VALUES
        ('pg_write_all_data', 'may write all tables'),
        ('pg_execute_server_program', 'may run programs on the server'),
        ('pg_write_server_files', 'may write the server''s files'),
        ('pg_read_server_files', 'may read the server''s files')
      ) AS predefined (name, power) ON predefined.name = b.name
    UNION SELECT 3, b.name, 'may set session_replication_role, which switches triggers off'
      FROM becomes b
      WHERE pg_catalog.has_parameter_privilege(b.oid, 'session_replication_role', 'SET, ALTER SYSTEM')
    UNION SELECT 3, b.name, pg_catalog.format('was given %s on ledgerd.%s', given.privilege_type, c.relname)
      FROM ours o JOIN pg_catalog.pg_class c ON c.relnamespace = o.oid
      CROSS JOIN LATERAL (
        SELECT c.relacl AS acl
        UNION ALL SELECT a.attacl FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
      ) AS lists
      CROSS JOIN LATERAL pg_catalog.aclexplode(lists.acl) AS given
      JOIN becomes b ON b.oid = given.grantee
      WHERE b.name <> 'ledgerd_runtime'
        AND given.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
  )
  SELECT session_user AS login, p.name, p.power FROM powers p
  WHERE p.rank = (SELECT pg_catalog.min(rank) FROM powers)
  ORDER BY p.name <> session_user, p.name, p.power
  LIMIT 5`);
  const login = rows[0]?.login ?? client.user ?? "";
  return { login, beyond: rows.map(({ name, power }) => (name === login ? power : `as a member of ${name} ${power}`)) };
}

/** What an operator is told of a login that could do more than serve. */
export function describePowers({ login, beyond }: Powers): string {
  return `the login ${login} ${beyond.join(", ")}, so that a session that serves could change the log`;
}

/** What to do about it. */
export const SEPARATION_ADVICE =
  "serve as a login that is a member of ledgerd_runtime alone (CREATE ROLE ledgerd_serve LOGIN PASSWORD '…' IN ROLE " +
  "ledgerd_runtime), and give one that may migrate to LEDGERD_MIGRATION_URL";
