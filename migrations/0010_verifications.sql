-- What the last verification of each kind found, for all processes to tell, and how far the one in the background is, for whoever takes over.

CREATE TABLE IF NOT EXISTS ledgerd.verifications (
  -- `background`, or `requested`: by `ledgerd verify`, or by a call.
  kind        TEXT PRIMARY KEY,
  started_at  TIMESTAMPTZ NOT NULL,
  -- Of the last one that came to its end; NULL: none did.
  finished_at TIMESTAMPTZ,
  rows        BIGINT NOT NULL DEFAULT 0,
  accounts    BIGINT NOT NULL DEFAULT 0,
  differences BIGINT NOT NULL DEFAULT 0,
  -- The id of the last row of the log that it was about.
  last_id     BIGINT NOT NULL DEFAULT 0,
  -- Of one under way: up to where it is.
  checkpoint  JSONB,

  CONSTRAINT verifications_kind CHECK (kind IN ('background', 'requested'))
);

GRANT SELECT, INSERT, UPDATE ON ledgerd.verifications TO ledgerd_runtime;
