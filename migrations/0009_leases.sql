-- Locks as leases: a time at which they are over, and fencing tokens.

CREATE SEQUENCE IF NOT EXISTS ledgerd.lock_token_seq AS BIGINT;
GRANT USAGE, SELECT ON SEQUENCE ledgerd.lock_token_seq TO ledgerd_runtime;

-- A row stays when its lock is free (`expires_at` is over): it says who had it last, and makes the repeat of a release harmless.
ALTER TABLE ledgerd.lock_heartbeat
  ADD COLUMN IF NOT EXISTS fencing_token BIGINT NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS ttl           INTERVAL NOT NULL DEFAULT INTERVAL '30 seconds',
  ADD COLUMN IF NOT EXISTS acquired_at   TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  ADD COLUMN IF NOT EXISTS expires_at    TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  ADD COLUMN IF NOT EXISTS released      BOOLEAN NOT NULL DEFAULT FALSE,
  ADD COLUMN IF NOT EXISTS request_id    TEXT;

GRANT SELECT, INSERT ON ledgerd.lock_heartbeat TO ledgerd_runtime;
GRANT UPDATE (instance_id, last_heartbeat, fencing_token, ttl, acquired_at, expires_at, released, request_id) ON ledgerd.lock_heartbeat TO ledgerd_runtime;

-- The seed's function, for callers that use it directly: it takes a free lock, for 30 seconds, or extends the caller's own, by what it was taken
-- for. As first specified it let anybody take a lock over by a heartbeat; this one refuses that: while another instance's lease is valid,
-- nothing is changed and it raises `lock_not_available`.
CREATE OR REPLACE FUNCTION ledgerd.update_lock_heartbeat(
  p_lock_key    BIGINT,
  p_instance_id VARCHAR(100)
) RETURNS VOID
LANGUAGE plpgsql AS $$
DECLARE
  moment TIMESTAMPTZ;
BEGIN
  -- The row is locked before the time is taken: what is decided below is true at that moment.
  INSERT INTO ledgerd.lock_heartbeat (lock_key, instance_id) VALUES (p_lock_key, p_instance_id) ON CONFLICT (lock_key) DO NOTHING;
  PERFORM FROM ledgerd.lock_heartbeat l WHERE l.lock_key = p_lock_key FOR UPDATE;
  moment := clock_timestamp();
  UPDATE ledgerd.lock_heartbeat held
  SET instance_id = p_instance_id,
      last_heartbeat = moment,
      -- Another lease, another token, drawn under the row's lock so that they grow; the caller's own valid lease keeps its one.
      fencing_token = CASE WHEN held.expires_at > moment THEN held.fencing_token ELSE nextval('ledgerd.lock_token_seq') END,
      acquired_at = CASE WHEN held.expires_at > moment THEN held.acquired_at ELSE moment END,
      ttl = CASE WHEN held.expires_at > moment THEN held.ttl ELSE INTERVAL '30 seconds' END,
      expires_at = greatest(held.expires_at, moment + CASE WHEN held.expires_at > moment THEN held.ttl ELSE INTERVAL '30 seconds' END),
      request_id = CASE WHEN held.expires_at > moment THEN held.request_id END,
      released = FALSE
  WHERE held.lock_key = p_lock_key AND (held.expires_at <= moment OR held.instance_id = p_instance_id);
  IF NOT FOUND THEN
    RAISE EXCEPTION 'lock % is held by another instance', p_lock_key USING ERRCODE = 'lock_not_available';
  END IF;
END
$$;
