-- The schema, its two roles, and the record of migrations.
--
-- ledgerd_migrator owns everything and changes the schema; nobody serves requests as it.
-- ledgerd_runtime is what `ledgerd serve` works as: it reads, appends to the log, and keeps the projections. It can't change or
-- remove a row of the log, nor the schema.
-- Roles belong to the whole cluster, so another database of it may have made them already, or be making them right now.

DO $$
DECLARE
  role_name TEXT;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['ledgerd_migrator', 'ledgerd_runtime'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role_name) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
      END IF;
    EXCEPTION
      WHEN duplicate_object OR unique_violation THEN NULL;
      WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'there is no role %, and % may not create it', role_name, current_user
          USING ERRCODE = 'insufficient_privilege',
                HINT = format('let an administrator run: CREATE ROLE %1$I NOLOGIN; GRANT %1$I TO %2$I;', role_name, current_user);
    END;
    BEGIN
      -- A superuser is everyone already. Who creates a role (16 and later) may administer it, but not yet become it.
      IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT %I TO %I', role_name, current_user);
      END IF;
    EXCEPTION
      WHEN insufficient_privilege THEN
        IF NOT pg_has_role(current_user, role_name, 'MEMBER') THEN
          RAISE EXCEPTION '% is no member of role %, and may not join it', current_user, role_name
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('let an administrator run: GRANT %I TO %I;', role_name, current_user);
        END IF;
    END;
  END LOOP;
END
$$;

CREATE SCHEMA IF NOT EXISTS ledgerd AUTHORIZATION ledgerd_migrator;

SET LOCAL ROLE ledgerd_migrator;

GRANT USAGE ON SCHEMA ledgerd TO ledgerd_runtime;

CREATE TABLE IF NOT EXISTS ledgerd.schema_migrations (
  number     INTEGER PRIMARY KEY,
  name       TEXT NOT NULL,
  checksum   TEXT NOT NULL,
  applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

GRANT SELECT ON ledgerd.schema_migrations TO ledgerd_runtime;
