-- The log: every change of money, once, for ever. All else about money can be rebuilt from it.

CREATE SEQUENCE IF NOT EXISTS ledgerd.transactions_id_seq AS BIGINT CACHE 1;

-- Amounts are NUMERIC without a limit: the service keeps them within 10^18 - 1 minor units of their currency, whose digits the database
-- doesn't know. `held_change`, `…_after` and the rest say what the row did and what the account was after it; `hash` covers them and
-- the hash of the account's row before.
CREATE TABLE IF NOT EXISTS ledgerd.transactions (
  id                      BIGINT NOT NULL DEFAULT nextval('ledgerd.transactions_id_seq'),
  user_id                 BIGINT NOT NULL,
  amount                  NUMERIC NOT NULL,
  currency                VARCHAR(3) NOT NULL DEFAULT 'RUB',
  type                    VARCHAR(20) NOT NULL,
  description             TEXT,
  created_at              TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  sequence                BIGINT NOT NULL,
  held_change             NUMERIC NOT NULL DEFAULT 0,
  balance_after           NUMERIC NOT NULL,
  held_after              NUMERIC NOT NULL,
  credit_limit_after      NUMERIC NOT NULL,
  hold_id                 BIGINT,
  hold_captured           NUMERIC,
  hold_expires_at         TIMESTAMPTZ,
  refunded_transaction_id BIGINT,
  job_id                  BIGINT,
  group_id                UUID,
  idempotency_key         TEXT,
  reference               TEXT,
  metadata                JSONB,
  actor                   TEXT,
  trace_id                TEXT,
  hash                    BYTEA NOT NULL,

  PRIMARY KEY (id, user_id),

  -- The last line of defence, kept short: PostgreSQL reads these expressions anew for each statement, which is a part of a lone write's time.
  -- (The scale of a sum is that of the finest of its parts.)
  CONSTRAINT transactions_type CHECK (type IN (
    'topup', 'deduction', 'refund', 'transfer_out', 'transfer_in', 'hold', 'capture', 'release', 'expiry', 'adjustment', 'credit_limit', 'opening')),
  CONSTRAINT transactions_scale CHECK (scale(amount + held_change + credit_limit_after) <= 12),
  CONSTRAINT transactions_figures CHECK (least(held_after, credit_limit_after, sequence - 1) >= 0),
  -- Spending never takes an account below its floor. (Captures, adjustments and a lowered limit may leave it there.)
  CONSTRAINT transactions_floor CHECK (
    balance_after - held_after + credit_limit_after >= 0 OR type NOT IN ('deduction', 'transfer_out', 'hold'))
) PARTITION BY RANGE (id);

ALTER SEQUENCE ledgerd.transactions_id_seq OWNED BY ledgerd.transactions.id;

-- A user's rows with a reference. All other look-ups by user go by account and sequence, through the unique index of each partition (below):
-- a second index over all rows with user_id in front made the insert of 128 rows a quarter slower (7.5 ms instead of 5.7).
CREATE INDEX IF NOT EXISTS idx_transactions_user_id ON ledgerd.transactions (user_id, reference, id) WHERE reference IS NOT NULL;

-- Rows are appended in the order of time, near enough for a block range index, which costs a write next to nothing.
CREATE INDEX IF NOT EXISTS idx_transactions_created_at ON ledgerd.transactions USING brin (created_at);

CREATE INDEX IF NOT EXISTS idx_transactions_refunded ON ledgerd.transactions (refunded_transaction_id)
  WHERE refunded_transaction_id IS NOT NULL;

-- The sequence of an account's last row up to a moment, or up to an id; 0 where there is none. Within an account times and ids ascend
-- with the sequence, so that a search by halves finds it: some twenty probes of an index in an account of a million rows.
CREATE OR REPLACE FUNCTION ledgerd.sequence_at(p_user_id BIGINT, p_currency TEXT, p_time TIMESTAMPTZ, p_id BIGINT) RETURNS BIGINT
LANGUAGE plpgsql STABLE AS $$
DECLARE
  low BIGINT := 0;
  high BIGINT;
  middle BIGINT;
  is_before BOOLEAN;
BEGIN
  SELECT b.sequence INTO high FROM ledgerd.user_balances b WHERE b.user_id = p_user_id AND b.currency = p_currency;
  WHILE low < high LOOP
    middle := (low + high + 1) / 2;
    SELECT coalesce(t.created_at <= p_time, t.id <= p_id) INTO STRICT is_before
    FROM ledgerd.transactions t
    WHERE t.user_id = p_user_id AND t.currency = p_currency AND t.sequence = middle;
    IF is_before THEN
      low := middle;
    ELSE
      high := middle - 1;
    END IF;
  END LOOP;
  RETURN low;
END
$$;

-- Of a moment alone, and of an id alone.
CREATE OR REPLACE FUNCTION ledgerd.sequence_at(p_user_id BIGINT, p_currency TEXT, p_time TIMESTAMPTZ) RETURNS BIGINT
LANGUAGE sql STABLE AS $$ SELECT ledgerd.sequence_at(p_user_id, p_currency, p_time, NULL) $$;

CREATE OR REPLACE FUNCTION ledgerd.sequence_at(p_user_id BIGINT, p_currency TEXT, p_id BIGINT) RETURNS BIGINT
LANGUAGE sql STABLE AS $$ SELECT ledgerd.sequence_at(p_user_id, p_currency, NULL, p_id) $$;

-- Append-only, for the owner too. (A superuser can still do all; only a digest of the hashes that is kept elsewhere shows that.)
CREATE OR REPLACE FUNCTION ledgerd.refuse_change_of_log() RETURNS TRIGGER
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'ledgerd.transactions is append-only: % refused', TG_OP
    USING ERRCODE = 'insufficient_privilege', HINT = 'correct a balance with the call Adjust';
END
$$;

CREATE OR REPLACE TRIGGER transactions_append_only
  BEFORE UPDATE OR DELETE ON ledgerd.transactions
  FOR EACH ROW EXECUTE FUNCTION ledgerd.refuse_change_of_log();
ALTER TABLE ledgerd.transactions ENABLE ALWAYS TRIGGER transactions_append_only;

CREATE OR REPLACE TRIGGER transactions_no_truncate
  BEFORE TRUNCATE ON ledgerd.transactions
  FOR EACH STATEMENT EXECUTE FUNCTION ledgerd.refuse_change_of_log();
ALTER TABLE ledgerd.transactions ENABLE ALWAYS TRIGGER transactions_no_truncate;

-- Makes the partitions for the ids from the next one to `p_headroom` further on, where they are missing, and answers how many it
-- made. Runs as the migrator, so that the runtime role needs no right to change the schema. A partition is made apart and then attached:
-- that lets writes go on, where CREATE TABLE … PARTITION OF would lock them out.
-- What the parent can't hand down is made here: the unique index (a unique index of the parent would have to contain id) and
-- the trigger on TRUNCATE.
CREATE OR REPLACE FUNCTION ledgerd.add_transaction_partitions(p_headroom BIGINT) RETURNS INTEGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  partition_size CONSTANT BIGINT := 10000000;
  next_id BIGINT;
  partition_name TEXT;
  made INTEGER := 0;
BEGIN
  IF p_headroom NOT BETWEEN 0 AND 1000 * partition_size THEN
    RAISE EXCEPTION 'headroom of % ids: must be from 0 to %', p_headroom, 1000 * partition_size;
  END IF;
  -- Two at a time would make the same partition.
  PERFORM pg_advisory_xact_lock(hashtextextended('ledgerd.add_transaction_partitions', 0));
  SELECT last_value + 1 INTO next_id FROM ledgerd.transactions_id_seq;
  FOR number IN next_id / partition_size .. (next_id + p_headroom) / partition_size LOOP
    partition_name := 'transactions_' || lpad(number::TEXT, 6, '0');
    CONTINUE WHEN to_regclass(format('ledgerd.%I', partition_name)) IS NOT NULL;
    EXECUTE format('CREATE TABLE IF NOT EXISTS ledgerd.%I (LIKE ledgerd.transactions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition_name);
    EXECUTE format('CREATE UNIQUE INDEX IF NOT EXISTS %I ON ledgerd.%I (user_id, currency, sequence)', partition_name || '_account', partition_name);
    EXECUTE format('CREATE OR REPLACE TRIGGER transactions_no_truncate BEFORE TRUNCATE ON ledgerd.%I '
                   'FOR EACH STATEMENT EXECUTE FUNCTION ledgerd.refuse_change_of_log()', partition_name);
    EXECUTE format('ALTER TABLE ledgerd.%I ENABLE ALWAYS TRIGGER transactions_no_truncate', partition_name);
    EXECUTE format('ALTER TABLE ledgerd.transactions ATTACH PARTITION ledgerd.%I FOR VALUES FROM (%s) TO (%s)',
                   partition_name, number * partition_size, (number + 1) * partition_size);
    EXECUTE format('ALTER TABLE ledgerd.%I ENABLE ALWAYS TRIGGER transactions_append_only', partition_name);
    made := made + 1;
  END LOOP;
  RETURN made;
END
$$;

REVOKE ALL ON FUNCTION ledgerd.add_transaction_partitions(BIGINT) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledgerd.add_transaction_partitions(BIGINT) TO ledgerd_runtime;

SELECT ledgerd.add_transaction_partitions(20000000);

GRANT SELECT, INSERT ON ledgerd.transactions TO ledgerd_runtime;
GRANT USAGE, SELECT ON SEQUENCE ledgerd.transactions_id_seq TO ledgerd_runtime;
