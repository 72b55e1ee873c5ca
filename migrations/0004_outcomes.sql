-- Primary data beside the log: the outcome of every idempotency key, and the references that may occur once.

CREATE TABLE IF NOT EXISTS ledgerd.idempotency_keys (
  user_id                 BIGINT NOT NULL,
  key                     TEXT NOT NULL,
  -- A digest of the request; another one under the same key is refused.
  fingerprint             BYTEA NOT NULL,
  -- What was written: the first row of the log, and the others of a transfer or an atomic batch.
  transaction_id          BIGINT,
  further_transaction_ids BIGINT[],
  -- Or why nothing was.
  refusal                 JSONB,
  created_at              TIMESTAMPTZ NOT NULL,

  PRIMARY KEY (user_id, key),
  CONSTRAINT idempotency_keys_outcome CHECK ((transaction_id IS NULL) = (refusal IS NOT NULL))
);

GRANT SELECT, INSERT ON ledgerd.idempotency_keys TO ledgerd_runtime;

CREATE TABLE IF NOT EXISTS ledgerd.unique_references (
  user_id   BIGINT NOT NULL,
  type      VARCHAR(20) NOT NULL,
  reference TEXT NOT NULL,

  PRIMARY KEY (user_id, type, reference)
);

GRANT SELECT, INSERT ON ledgerd.unique_references TO ledgerd_runtime;

-- For statements whose row count must be right or their whole transaction be undone: the journal sends them together with COMMIT, so only
-- the database can stop in between.
CREATE OR REPLACE FUNCTION ledgerd.assert_count(p_what TEXT, p_found BIGINT, p_expected BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql AS $$
BEGIN
  IF p_found IS DISTINCT FROM p_expected THEN
    RAISE EXCEPTION '%: % rows instead of %', p_what, p_found, p_expected USING ERRCODE = 'assert_failure';
  END IF;
  RETURN TRUE;
END
$$;
