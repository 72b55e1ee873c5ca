-- Adoptions: what is taken over from databases of the old application, and how far that is.

-- One row for each; one without `finished_at` is under way, and then nobody serves. How far it is (`phase`, the ids of the last old rows, and `report`,
-- what was found so far) changes in the same transaction as the rows that it covers, and `step` with each: what was written once is never written again.
CREATE TABLE IF NOT EXISTS ledgerd.adoptions (
  id             INTEGER PRIMARY KEY,
  -- Which old database: its cluster, its name, the schema.
  source         TEXT NOT NULL,
  options        JSONB NOT NULL,
  -- Of the old database's rows when the pass at hand began.
  fingerprint    TEXT NOT NULL,
  -- The log's last id before: adopted rows are behind it.
  id_before      BIGINT NOT NULL,
  pass           INTEGER NOT NULL DEFAULT 1,
  step           BIGINT NOT NULL DEFAULT 0,
  phase          TEXT NOT NULL DEFAULT 'users',
  user_id        BIGINT NOT NULL,
  transaction_id BIGINT NOT NULL,
  job_id         BIGINT NOT NULL,
  report         JSONB NOT NULL,
  started_at     TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  finished_at    TIMESTAMPTZ,

  CONSTRAINT adoptions_phase CHECK (phase IN ('users', 'jobs', 'checks', 'done') AND (phase = 'done') = (finished_at IS NOT NULL))
);

-- One at a time.
CREATE UNIQUE INDEX IF NOT EXISTS idx_adoptions_unfinished ON ledgerd.adoptions ((TRUE)) WHERE finished_at IS NULL;

GRANT SELECT ON ledgerd.adoptions TO ledgerd_runtime;

-- What an adopted job's row said before, as far as it doesn't any more: its status and its cost.
ALTER TABLE ledgerd.jobs ADD COLUMN IF NOT EXISTS adopted JSONB;
