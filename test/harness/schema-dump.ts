// The schema `ledgerd` as text, out of the catalogs: the same text for the same schema on PostgreSQL 15 to 18. The log's partitions are
// left out: how many there are depends on how much was written.

import type { TestDatabase } from "./database.ts";

const roles = `
  SELECT format('role %s: login %s, superuser %s, createrole %s, createdb %s, replication %s, bypassrls %s, inherit %s', rolname, rolcanlogin,
                rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolinherit) AS line
  FROM pg_roles
  WHERE rolname IN ('ledgerd_migrator', 'ledgerd_runtime')
  ORDER BY rolname`;

const schema = `
  SELECT format('schema ledgerd: owner %s', pg_get_userbyid(nspowner)) AS line FROM pg_namespace WHERE nspname = 'ledgerd'
  UNION ALL
  SELECT format('  grant %s to %s', privilege_type, grantee::regrole)
  FROM pg_namespace, aclexplode(nspacl)
  WHERE nspname = 'ledgerd' AND grantee <> nspowner
  ORDER BY 1 DESC`;

/** Each relation's own lines: what it is, its columns, constraints, indexes, triggers and grants. (Since 18, NOT NULL is a constraint as well.) */
const relations = `
  WITH relations AS (
    SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.reloptions
    FROM pg_class c
    WHERE c.relnamespace = 'ledgerd'::regnamespace AND c.relkind IN ('r', 'p', 'c', 'S', 'v', 'm') AND NOT c.relispartition
  ), lines AS (
    SELECT oid, 1 AS part, '' AS place,
           format('%s %s: owner %s%s%s%s',
                  CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'c' THEN 'type' WHEN 'S' THEN 'sequence' ELSE 'view' END,
                  relname, pg_get_userbyid(relowner), ', ' || array_to_string(reloptions, ', '), ', by ' || pg_get_partkeydef(oid),
                  (SELECT format(', %s from %s by %s, cache %s, cycle %s', seqtypid::regtype, seqstart, seqincrement, seqcache, seqcycle)
                   FROM pg_sequence WHERE seqrelid = oid)) AS line
    FROM relations
    UNION ALL
    SELECT r.oid, 1, 'owned', format('  owned by %s.%s', d.refobjid::regclass, a.attname)
    FROM relations r
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'a'
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE r.relkind = 'S'
    UNION ALL
    SELECT r.oid, 2, lpad(a.attnum::text, 3, '0'),
           format('  column %s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN ' not null' END,
                  ' default ' || pg_get_expr(d.adbin, d.adrelid))
    FROM relations r
    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE r.relkind <> 'S'
    UNION ALL
    SELECT r.oid, 3, k.conname, format('  constraint %s %s', k.conname, pg_get_constraintdef(k.oid))
    FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid AND k.contype <> 'n'
    UNION ALL
    SELECT r.oid, 4, i.indexrelid::regclass::text, format('  index %s', pg_get_indexdef(i.indexrelid))
    FROM relations r JOIN pg_index i ON i.indrelid = r.oid
    UNION ALL
    SELECT r.oid, 5, t.tgname, format('  trigger %s, %s', pg_get_triggerdef(t.oid), CASE t.tgenabled WHEN 'A' THEN 'always' WHEN 'O' THEN 'on' ELSE 'off' END)
    FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT r.oid, 6, '', format('  grant %s to %s', string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type), g.grantee::regrole)
    FROM relations r, aclexplode(r.relacl) g
    WHERE g.grantee <> r.relowner
    GROUP BY r.oid, g.grantee
    UNION ALL
    SELECT r.oid, 7, '', format('  grant %s (%s) to %s', g.privilege_type, string_agg(a.attname, ', ' ORDER BY a.attnum), g.grantee::regrole)
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid, aclexplode(a.attacl) g
    GROUP BY r.oid, g.privilege_type, g.grantee
  )
  SELECT l.line
  FROM lines l JOIN relations r ON r.oid = l.oid
  ORDER BY r.relkind DESC, r.relname, l.part, l.place, l.line`;

const functions = `
  SELECT format(E'-- owner %s, executed by %s\\n%s', pg_get_userbyid(p.proowner),
                (SELECT string_agg(CASE WHEN g.grantee = 0 THEN 'everyone' ELSE g.grantee::regrole::text END, ', ' ORDER BY g.grantee::regrole::text)
                 FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
                 WHERE g.grantee <> p.proowner),
                pg_get_functiondef(p.oid)) AS line
  FROM pg_proc p
  WHERE p.pronamespace = 'ledgerd'::regnamespace
  ORDER BY p.proname, pg_get_function_identity_arguments(p.oid)`;

/** The schema of a database, with the attributes of its roles. */
export async function dumpSchema({ query }: Pick<TestDatabase, "query">): Promise<string> {
  // So that every name is written with its schema.
  await query("SET search_path = pg_catalog");
  const parts: string[] = [];
  for (const text of [roles, schema, relations, functions]) {
    const rows = await query<{ line: string }>(text);
    parts.push(rows.map(({ line }) => `${line}\n`).join(""));
  }
  await query("RESET search_path");
  return parts.join("\n");
}
