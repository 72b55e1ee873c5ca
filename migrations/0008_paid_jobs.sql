-- Jobs with their money, their attempts, and their leases.

CREATE SEQUENCE IF NOT EXISTS ledgerd.fencing_token_seq AS BIGINT;
GRANT USAGE, SELECT ON SEQUENCE ledgerd.fencing_token_seq TO ledgerd_runtime;

-- `ready` says that a pending job's time has come: an index over jobs that wait for theirs, however many, must not stand before those
-- that can be claimed. `size` is the length of prompt and parameters in bytes, which bounds what is answered at once. `changed_at` is the time
-- of the last change that watchers are told.
ALTER TABLE ledgerd.jobs
  ADD COLUMN IF NOT EXISTS currency         VARCHAR(3) NOT NULL DEFAULT 'RUB',
  ADD COLUMN IF NOT EXISTS hold_id          BIGINT,
  ADD COLUMN IF NOT EXISTS final_cost       NUMERIC,
  ADD COLUMN IF NOT EXISTS idempotency_key  TEXT,
  ADD COLUMN IF NOT EXISTS priority         INTEGER NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS run_at           TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  ADD COLUMN IF NOT EXISTS ready            BOOLEAN NOT NULL DEFAULT TRUE,
  ADD COLUMN IF NOT EXISTS attempt          INTEGER NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS max_attempts     INTEGER NOT NULL DEFAULT 3,
  ADD COLUMN IF NOT EXISTS worker_id        TEXT,
  ADD COLUMN IF NOT EXISTS fencing_token    BIGINT NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS lease_expires_at TIMESTAMPTZ,
  ADD COLUMN IF NOT EXISTS claim_request_id TEXT,
  ADD COLUMN IF NOT EXISTS progress         INTEGER NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
  ADD COLUMN IF NOT EXISTS size             INTEGER NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS changed_at       TIMESTAMPTZ NOT NULL DEFAULT NOW();

ALTER TABLE ledgerd.jobs ALTER COLUMN cost SET DEFAULT 0;
ALTER TABLE ledgerd.jobs ALTER COLUMN cost SET NOT NULL;

DO $$
BEGIN
  -- A final state has its time, and only a worked on job a lease.
  ALTER TABLE ledgerd.jobs ADD CONSTRAINT jobs_state CHECK (
    CASE status
      WHEN 'pending' THEN completed_at IS NULL AND lease_expires_at IS NULL
      WHEN 'processing' THEN completed_at IS NULL
      WHEN 'completed' THEN completed_at IS NOT NULL AND lease_expires_at IS NULL AND final_cost IS NOT NULL
      WHEN 'failed' THEN completed_at IS NOT NULL AND lease_expires_at IS NULL
      WHEN 'cancelled' THEN completed_at IS NOT NULL AND lease_expires_at IS NULL
      ELSE FALSE
    END);
EXCEPTION WHEN duplicate_object THEN NULL;
END
$$;

DO $$
BEGIN
  ALTER TABLE ledgerd.jobs ADD CONSTRAINT jobs_figures CHECK (cost >= 0 AND final_cost BETWEEN 0 AND cost AND (hold_id IS NOT NULL OR cost = 0));
EXCEPTION WHEN duplicate_object THEN NULL;
END
$$;

-- What can be claimed, in the order of claims, by all workers and by those of one kind of work. Jobs that are done, or wait for their time,
-- are in neither, so that a claim costs the same however many there are.
-- The first one's `id > 0` keeps it out of the plans of claims of one kind, which would walk through all others.
CREATE INDEX IF NOT EXISTS idx_jobs_ready ON ledgerd.jobs (priority DESC, run_at, id) WHERE status = 'pending' AND ready AND id > 0;
CREATE INDEX IF NOT EXISTS idx_jobs_ready_model ON ledgerd.jobs (model_id, priority DESC, run_at, id) WHERE status = 'pending' AND ready;
CREATE INDEX IF NOT EXISTS idx_jobs_scheduled ON ledgerd.jobs (run_at) WHERE status = 'pending' AND NOT ready;
-- Leases, for the rescue of jobs whose worker died.
CREATE INDEX IF NOT EXISTS idx_jobs_leases ON ledgerd.jobs (lease_expires_at) WHERE status = 'processing' AND lease_expires_at IS NOT NULL;
-- What a claim that is repeated has taken.
CREATE INDEX IF NOT EXISTS idx_jobs_claims ON ledgerd.jobs (worker_id, claim_request_id) WHERE status = 'processing' AND claim_request_id IS NOT NULL;
-- Lists, and watchers of a user's jobs.
CREATE INDEX IF NOT EXISTS idx_jobs_of_user ON ledgerd.jobs (user_id, id);
CREATE INDEX IF NOT EXISTS idx_jobs_changes ON ledgerd.jobs (user_id, changed_at);

GRANT SELECT, INSERT ON ledgerd.jobs TO ledgerd_runtime;
GRANT UPDATE (status, result_url, error_message, completed_at, hold_id, final_cost, run_at, ready, attempt, worker_id, fencing_token,
              lease_expires_at, claim_request_id, progress, cancel_requested, changed_at) ON ledgerd.jobs TO ledgerd_runtime;
GRANT USAGE, SELECT ON SEQUENCE ledgerd.jobs_id_seq TO ledgerd_runtime;

-- The outcome of a call about a job: the job as it then was, but for what never changes of it. `transaction_id` is 0 where no money moved.
ALTER TABLE ledgerd.idempotency_keys ADD COLUMN IF NOT EXISTS job_id BIGINT;
ALTER TABLE ledgerd.idempotency_keys ADD COLUMN IF NOT EXISTS job JSONB;

DO $$
BEGIN
  ALTER TYPE ledgerd.outcome_row ADD ATTRIBUTE job_id BIGINT, ADD ATTRIBUTE job JSONB;
EXCEPTION WHEN duplicate_column THEN NULL;
END
$$;

-- A job as the journal writes it, in arrays.
DO $$
BEGIN
  CREATE TYPE ledgerd.job_row AS (
    id               BIGINT,
    user_id          BIGINT,
    currency         TEXT,
    model_id         TEXT,
    prompt           TEXT,
    parameters       JSONB,
    cost             NUMERIC,
    idempotency_key  TEXT,
    priority         INTEGER,
    max_attempts     INTEGER,
    created_at       TIMESTAMPTZ,
    status           TEXT,
    hold_id          BIGINT,
    final_cost       NUMERIC,
    result_url       TEXT,
    error_message    TEXT,
    run_at           TIMESTAMPTZ,
    ready            BOOLEAN,
    attempt          INTEGER,
    worker_id        TEXT,
    lease_expires_at TIMESTAMPTZ,
    progress         INTEGER,
    cancel_requested BOOLEAN,
    completed_at     TIMESTAMPTZ,
    size             INTEGER,
    changed_at       TIMESTAMPTZ
  );
EXCEPTION WHEN duplicate_object THEN NULL;
END
$$;
