-- Paid jobs.

CREATE SEQUENCE IF NOT EXISTS ledgerd.jobs_id_seq AS BIGINT;

CREATE TABLE IF NOT EXISTS ledgerd.jobs (
  id            BIGINT NOT NULL DEFAULT nextval('ledgerd.jobs_id_seq'),
  user_id       BIGINT NOT NULL,
  model_id      VARCHAR(100) NOT NULL,
  prompt        TEXT,
  parameters    JSONB,
  status        VARCHAR(20) NOT NULL DEFAULT 'pending',
  result_url    TEXT,
  error_message TEXT,
  cost          NUMERIC,
  created_at    TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  completed_at  TIMESTAMPTZ,

  PRIMARY KEY (id, user_id),
  CONSTRAINT jobs_scale CHECK (scale(cost) <= 12)
);

ALTER SEQUENCE ledgerd.jobs_id_seq OWNED BY ledgerd.jobs.id;

CREATE INDEX IF NOT EXISTS idx_jobs_user_id ON ledgerd.jobs (user_id);
CREATE INDEX IF NOT EXISTS idx_jobs_status ON ledgerd.jobs (status);
CREATE INDEX IF NOT EXISTS idx_jobs_created_at ON ledgerd.jobs (created_at);
