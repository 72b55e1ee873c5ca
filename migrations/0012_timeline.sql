-- Whose past a database goes on from, and tokens that grow over each change of it.

-- Which past this is: the server's cluster, the database, and the timeline, which changes whenever a standby or a
-- recovered copy is promoted. While a server runs it stays the same, so whatever two statements read that see the
-- same one is of one past. NULL while the server recovers: it takes no writes then, and its past may still change.
CREATE OR REPLACE FUNCTION ledgerd.timeline() RETURNS TEXT
LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN NOT pg_is_in_recovery() THEN
    format('%s.%s.%s', (SELECT c.system_identifier FROM pg_control_system() c),
           (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()),
           left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))
  END
$$;

-- The past in which fencing tokens were last drawn: one row, or none as long as none were.
CREATE TABLE IF NOT EXISTS ledgerd.token_timeline (
  id       INTEGER PRIMARY KEY DEFAULT 1,
  timeline TEXT NOT NULL,
  began_at TIMESTAMPTZ NOT NULL,

  CONSTRAINT token_timeline_single CHECK (id = 1)
);

GRANT SELECT ON ledgerd.token_timeline TO ledgerd_runtime;

-- Has both sequences of tokens go on far behind all that may have been drawn of them in a past that was lost. What
-- that was nobody knows, but nobody draws a thousand million tokens unseen, nor a million in each second: so it is at
-- least that many more, and at least the microseconds since 1970. (The latter for two servers that go on from one
-- past without knowing of each other: the later one begins behind all that the earlier one can have drawn.) Whoever
-- comes second waits for the first one's commit, and changes nothing. As the migrator: the service may not set
-- sequences.
CREATE OR REPLACE FUNCTION ledgerd.begin_tokens() RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gap CONSTANT BIGINT := 1000000000;
  micros CONSTANT BIGINT := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
  INSERT INTO ledgerd.token_timeline AS t (timeline, began_at) VALUES (ledgerd.timeline(), clock_timestamp())
  ON CONFLICT (id) DO UPDATE SET timeline = EXCLUDED.timeline, began_at = EXCLUDED.began_at
    WHERE t.timeline <> EXCLUDED.timeline;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  -- A new ledger begins there, too: that no token was ever drawn may be what was lost.
  PERFORM setval('ledgerd.lock_token_seq', greatest(s.last_value + gap, micros))
  FROM ledgerd.lock_token_seq s LIMIT 1;
  PERFORM setval('ledgerd.fencing_token_seq', greatest(s.last_value + gap, micros))
  FROM ledgerd.fencing_token_seq s LIMIT 1;
END
$$;

REVOKE ALL ON FUNCTION ledgerd.begin_tokens() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledgerd.begin_tokens() TO ledgerd_runtime;

-- The sequence to draw tokens of, once it is sure to be behind all that were ever given. In the transaction that
-- grants: there is no other moment at which it is sure that the tokens are drawn in the past that was looked at.
CREATE OR REPLACE FUNCTION ledgerd.token_source(p_sequence REGCLASS) RETURNS REGCLASS
LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM ledgerd.token_timeline t WHERE t.id = 1 AND t.timeline = ledgerd.timeline()) THEN
    PERFORM ledgerd.begin_tokens();
  END IF;
  RETURN p_sequence;
END
$$;

-- As before, but for where the token comes from.
CREATE OR REPLACE FUNCTION ledgerd.update_lock_heartbeat(
  p_lock_key    BIGINT,
  p_instance_id VARCHAR(100)
) RETURNS VOID
LANGUAGE plpgsql AS $$
DECLARE
  -- Before the row is locked, as whoever acquires a lock does it: in the other order they could wait for each other.
  tokens CONSTANT REGCLASS := ledgerd.token_source('ledgerd.lock_token_seq');
  moment TIMESTAMPTZ;
BEGIN
  -- The row is locked before the time is taken: what is decided below is true at that moment.
  INSERT INTO ledgerd.lock_heartbeat (lock_key, instance_id) VALUES (p_lock_key, p_instance_id)
  ON CONFLICT (lock_key) DO NOTHING;
  PERFORM FROM ledgerd.lock_heartbeat l WHERE l.lock_key = p_lock_key FOR UPDATE;
  moment := clock_timestamp();
  UPDATE ledgerd.lock_heartbeat held
  SET instance_id = p_instance_id,
      last_heartbeat = moment,
      -- Another lease, another token, drawn under the row's lock so that they grow; the caller's own valid lease
      -- keeps its one.
      fencing_token = CASE WHEN held.expires_at > moment THEN held.fencing_token ELSE nextval(tokens) END,
      acquired_at = CASE WHEN held.expires_at > moment THEN held.acquired_at ELSE moment END,
      ttl = CASE WHEN held.expires_at > moment THEN held.ttl ELSE INTERVAL '30 seconds' END,
      expires_at = greatest(held.expires_at,
                            moment + CASE WHEN held.expires_at > moment THEN held.ttl ELSE INTERVAL '30 seconds' END),
      request_id = CASE WHEN held.expires_at > moment THEN held.request_id END,
      released = FALSE
  WHERE held.lock_key = p_lock_key AND (held.expires_at <= moment OR held.instance_id = p_instance_id);
  IF NOT FOUND THEN
    RAISE EXCEPTION 'lock % is held by another instance', p_lock_key USING ERRCODE = 'lock_not_available';
  END IF;
END
$$;
