//! [`Statements`], the changes of locks.
//!
//! Each statement is its own transaction. Unless the store listens, the statement has no name in the server, so it
//! works through a pooler that gives each transaction another connection.

use super::super::lock_backend::{LeaseId, LockName};

/// How many tokens a number of the sequence stands for.
pub(super) const TOKENS: u32 = 1_024;

#[derive(Debug)]
pub(super) struct Statements {
    pub(super) table: String,
    /// The channel of notifications.
    pub(super) channel: String,
    pub(super) sequence: String,
    pub(super) create_table: String,
    pub(super) examine: String,
    pub(super) acquire: String,
    pub(super) renew: String,
    pub(super) release: String,
    pub(super) mark: String,
}

/// A name in the form that the statements compare. Text in PostgreSQL has no zero bytes, and an index entry has a
/// maximum length.
const KEY: &str =
    "CASE WHEN octet_length($3) > 1000 THEN 'sha256:' || encode(sha256(convert_to($3, 'UTF8')), 'hex') ELSE $3 END";

/// A role that may use the table and the sequence, but not create them, is enough once they exist.
const EXAMINE: &str = "
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS is_standby,
    to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL AS exists,
    (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS micros";

const CREATE_TABLE: &str = r#"
CREATE TABLE IF NOT EXISTS {table} (
    domain text COLLATE "C" NOT NULL,
    guard text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    owner text NOT NULL,
    fence int8 NOT NULL,
    expires_at timestamptz NOT NULL,
    waiters int8[],
    PRIMARY KEY (domain, guard, key)
) WITH (fillfactor = 50)"#;

/// `$1` domain, `$2` guard, `$3` key, `$4` owner, `$5` lease in milliseconds, `$6` tokens of a number, `$7` deadline in
/// seconds since the start of the Unix epoch. Returns the current time, and either the token or the time until the
/// lease of the other owner ends. Both are null if another owner took the lock at the same time, or if the deadline has
/// passed.
///
/// The gate makes attempts at the same lock take turns, each until its transaction ends. An owner therefore gets its
/// number of the sequence after the previous owner, and tokens follow the order of entry. An attempt that finds the
/// lock held changes nothing and does not wait.
///
/// If an owner repeats its request because the connection broke, the owner has the lock.
const ACQUIRE: &str = "
WITH held AS (
    SELECT expires_at FROM {table}
    WHERE domain = $1 AND guard = $2 AND key = {key} AND owner <> $4 AND expires_at > clock_timestamp()
), gate AS MATERIALIZED (
    SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2 || '/' || $3, 0)) WHERE NOT EXISTS (SELECT FROM held)
), taken AS (
    INSERT INTO {table} AS l (domain, guard, key, owner, fence, expires_at)
    SELECT $1, $2, {key}, $4, nextval('{sequence}') * $6, clock_timestamp() + $5 * interval '1 millisecond' FROM gate
    WHERE extract(epoch FROM clock_timestamp()) <= $7
    ON CONFLICT (domain, guard, key) DO UPDATE
    SET owner = excluded.owner, fence = excluded.fence, expires_at = excluded.expires_at, waiters = NULL
    WHERE l.expires_at <= clock_timestamp() OR l.owner = excluded.owner
    RETURNING fence
)
SELECT (SELECT fence FROM taken) AS fence,
    (SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM held) AS expires_in,
    extract(epoch FROM clock_timestamp())::float8 AS now";

/// `$1` domain, `$2` guards, `$3` keys, `$4` owners, `$5` tokens, `$6` lease in milliseconds. Returns the positions of the
/// leases that are still held.
const RENEW: &str = "
UPDATE {table} AS l SET expires_at = clock_timestamp() + $6 * interval '1 millisecond'
FROM unnest($2, $3, $4, $5) WITH ORDINALITY AS r (guard, key, owner, fence, position)
WHERE l.domain = $1 AND l.guard = r.guard AND l.key = {key} AND l.owner = r.owner
    AND l.fence = coalesce(r.fence, l.fence) AND l.expires_at > clock_timestamp()
RETURNING r.position";

/// `$1` domain, `$2` guard, `$3` key, `$4` owner, `$5` token or null, `$6` channel or null, `$7` payload. Returns the
/// number of other processes that wait, and notifies them.
const RELEASE: &str = "
WITH released AS (
    DELETE FROM {table}
    WHERE domain = $1 AND guard = $2 AND key = {key} AND owner = $4 AND fence = coalesce($5, fence)
    RETURNING coalesce(cardinality(waiters), 0) AS waiting
)
SELECT waiting, CASE WHEN waiting > 0 AND $6 IS NOT NULL THEN pg_notify($6, $7) END FROM released";

/// `$1` domain, `$2` guard, `$3` key, `$4` process. Records in the row of the lock that a process waits. The record is
/// deleted with the row.
const MARK: &str = "
UPDATE {table} SET waiters = array_append(waiters, $4)
WHERE domain = $1 AND guard = $2 AND key = {key} AND array_position(waiters, $4) IS NULL";

impl Statements {
    /// `table` may have a schema, separated by a dot.
    pub(super) fn new(table: &str) -> Self {
        let quote = |name: &str| {
            let parts = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
            parts.collect::<Vec<_>>().join(".")
        };
        let (quoted, sequence) = (quote(table), quote(&format!("{table}_fence")));
        let fill = |statement: &str, key: &str| {
            // The name of the sequence is a string there.
            let statement = statement.replace("{table}", &quoted).replace("{key}", key);
            statement.replace("{sequence}", &sequence.replace('\'', "''"))
        };
        Self {
            create_table: fill(CREATE_TABLE, ""),
            examine: fill(EXAMINE, ""),
            acquire: fill(ACQUIRE, KEY),
            renew: fill(RENEW, &KEY.replace("$3", "r.key")),
            release: fill(RELEASE, KEY),
            mark: fill(MARK, KEY),
            table: quoted,
            channel: table.to_owned(),
            sequence,
        }
    }

    /// Tokens continue from the current time, so that they grow even if the sequence was dropped.
    pub(super) fn create_sequence(&self, micros: i64) -> String {
        format!("CREATE SEQUENCE IF NOT EXISTS {} START WITH {micros}", self.sequence)
    }
}

/// Returns the key in the form that the statements take. A lock without a key differs from a lock with an empty key.
pub(super) fn key(name: &LockName) -> String {
    name.key().map_or_else(String::new, |key| format!("={}", text(key)))
}

/// Returns a name without zero bytes, which text in PostgreSQL can't have.
pub(super) fn text(name: &str) -> String {
    name.replace('%', "%25").replace('\0', "%00")
}

/// Returns the payload of a notification about a lock. Long payloads are cut, so a waiter may be woken for another
/// lock.
pub(super) fn payload(domain: &str, name: &LockName) -> String {
    const LONGEST: usize = 1_000;
    let mut payload = format!("{}/{}/{}", text(domain), text(name.guard()), key(name));
    if payload.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| payload.is_char_boundary(*end)).unwrap_or_default();
        payload.truncate(end);
    }
    payload
}

pub(super) fn fence(lease: &LeaseId) -> Option<i64> {
    // A token that does not fit the type of the column belongs to no lease.
    lease.fence.map(|fence| i64::try_from(fence).unwrap_or(i64::MAX))
}
