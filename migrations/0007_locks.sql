-- Leases with heartbeats.

CREATE TABLE IF NOT EXISTS ledgerd.lock_heartbeat (
  lock_key       BIGINT PRIMARY KEY,
  instance_id    VARCHAR(100) NOT NULL,
  last_heartbeat TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE OR REPLACE FUNCTION ledgerd.update_lock_heartbeat(
  p_lock_key    BIGINT,
  p_instance_id VARCHAR(100)
) RETURNS VOID
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ledgerd.lock_heartbeat (lock_key, instance_id, last_heartbeat)
  VALUES (p_lock_key, p_instance_id, NOW())
  ON CONFLICT (lock_key) DO UPDATE
  SET instance_id = EXCLUDED.instance_id,
      last_heartbeat = NOW();
END
$$;
