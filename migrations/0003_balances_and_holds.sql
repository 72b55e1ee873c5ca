-- What follows from the log, kept beside it in the same transactions: balances, and where each hold stands.

-- Half of each page stays free at first, so that an update finds room in its page and touches no index (HOT).
CREATE TABLE IF NOT EXISTS ledgerd.user_balances (
  user_id      BIGINT NOT NULL,
  balance      NUMERIC NOT NULL DEFAULT 0.00,
  currency     VARCHAR(3) NOT NULL DEFAULT 'RUB',
  created_at   TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  -- The time of the account's last transaction.
  updated_at   TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  held         NUMERIC NOT NULL DEFAULT 0.00,
  credit_limit NUMERIC NOT NULL DEFAULT 0.00,
  -- 0: the account doesn't exist yet; the row is there to be locked.
  sequence     BIGINT NOT NULL DEFAULT 0,
  -- The hash of the account's last transaction.
  chain_head   BYTEA,

  PRIMARY KEY (user_id, currency),
  CONSTRAINT user_balances_scale CHECK (scale(balance + held + credit_limit) <= 12),
  CONSTRAINT user_balances_figures CHECK (least(held, credit_limit, sequence) >= 0)
) WITH (fillfactor = 50);

CREATE INDEX IF NOT EXISTS idx_user_balances_user_id ON ledgerd.user_balances (user_id);

GRANT SELECT, INSERT ON ledgerd.user_balances TO ledgerd_runtime;
GRANT UPDATE (balance, held, credit_limit, sequence, updated_at, chain_head) ON ledgerd.user_balances TO ledgerd_runtime;

CREATE SEQUENCE IF NOT EXISTS ledgerd.holds_id_seq AS BIGINT;

CREATE TABLE IF NOT EXISTS ledgerd.holds (
  id         BIGINT NOT NULL,
  user_id    BIGINT NOT NULL,
  currency   VARCHAR(3) NOT NULL,
  amount     NUMERIC NOT NULL,
  captured   NUMERIC NOT NULL DEFAULT 0,
  state      VARCHAR(20) NOT NULL DEFAULT 'open',
  job_id     BIGINT,
  expires_at TIMESTAMPTZ NOT NULL,
  created_at TIMESTAMPTZ NOT NULL,

  PRIMARY KEY (id, user_id),
  CONSTRAINT holds_scale CHECK (scale(amount) <= 12 AND scale(captured) <= 12),
  CONSTRAINT holds_state CHECK (state IN ('open', 'captured', 'released', 'expired')),
  CONSTRAINT holds_figures CHECK (amount > 0 AND captured BETWEEN 0 AND amount)
) WITH (fillfactor = 80);

ALTER SEQUENCE ledgerd.holds_id_seq OWNED BY ledgerd.holds.id;

CREATE INDEX IF NOT EXISTS idx_holds_user_id ON ledgerd.holds (user_id, id);

-- The open ones of an account, for each write on it, and the due ones of all, for the sweep: small, since holds end. The second one's `id > 0`
-- keeps it out of the plans of the first one's look-up, which would walk through all due holds for each account (seen on an empty table).
CREATE INDEX IF NOT EXISTS idx_holds_open ON ledgerd.holds (user_id, currency, expires_at) WHERE state = 'open';
CREATE INDEX IF NOT EXISTS idx_holds_due ON ledgerd.holds (expires_at) WHERE state = 'open' AND id > 0;

GRANT SELECT, INSERT ON ledgerd.holds TO ledgerd_runtime;
GRANT UPDATE (captured, state) ON ledgerd.holds TO ledgerd_runtime;
GRANT USAGE, SELECT ON SEQUENCE ledgerd.holds_id_seq TO ledgerd_runtime;
