-- What the last verification of each kind found, for all processes to tell.

CREATE TABLE IF NOT EXISTS ledgerd.verifications (
  -- `background`, or `requested`: by `ledgerd verify`, or by a call.
  kind        TEXT PRIMARY KEY,
  -- Of the last one that came to its end; NULL: none did.
  finished_at TIMESTAMPTZ,
  rows        BIGINT NOT NULL DEFAULT 0,
  accounts    BIGINT NOT NULL DEFAULT 0,
  -- Those that it found; or of the one under way, as soon as it has found more.
  differences BIGINT NOT NULL DEFAULT 0,
  -- The id of the last row of the log that it was about.
  last_id     BIGINT NOT NULL DEFAULT 0,

  CONSTRAINT verifications_kind CHECK (kind IN ('background', 'requested'))
);

GRANT SELECT, INSERT, UPDATE ON ledgerd.verifications TO ledgerd_runtime;
