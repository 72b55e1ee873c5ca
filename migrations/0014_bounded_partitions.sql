-- A bound on what one call makes. Whoever serves may call this function, and it made a thousand tables when it was asked
-- to. The service asks for the next 20 million ids, three partitions; up to 100 million may be asked for, eleven. The
-- ids it counts from are drawn one by one: that role can't set the sequence. All else is as it was: see 0013_partitions.sql.
CREATE OR REPLACE FUNCTION ledgerd.add_transaction_partitions(p_headroom BIGINT) RETURNS INTEGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  partition_size CONSTANT BIGINT := 10000000;
  next_id BIGINT;
  first_number BIGINT;
  number BIGINT;
  partition_name TEXT;
  made INTEGER := 0;
BEGIN
  IF p_headroom NOT BETWEEN 0 AND 10 * partition_size THEN
    RAISE EXCEPTION 'headroom of % ids: must be from 0 to %', p_headroom, 10 * partition_size;
  END IF;
  -- Two at a time would make the same partition.
  PERFORM pg_advisory_xact_lock(hashtextextended('ledgerd.add_transaction_partitions', 0));
  SELECT last_value + 1 INTO next_id FROM ledgerd.transactions_id_seq;
  first_number := next_id / partition_size;
  FOR step IN 0 .. (next_id + p_headroom) / partition_size - first_number LOOP
    number := first_number + step;
    partition_name := 'transactions_' || lpad(number::TEXT, greatest(6, length(number::TEXT)), '0');
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
