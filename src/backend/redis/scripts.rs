//! [`Scripts`], the changes of locks. A script runs in one step, so nothing happens between its check and its change.
//!
//! The value of a lock is `owner:fence;`. The semicolon makes `owner:12;` differ from the start of `owner:123;`, so that
//! a value can be compared with a prefix, such as `owner:` for an owner that does not know its token.

use redis::Script;

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) acquire: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
}

/// `KEYS`: lock, fence. `ARGV`: owner, tokens, lease in milliseconds, the highest token that the process has seen, the
/// deadline in microseconds.
///
/// Returns the server's time in microseconds, and `1, first token`, or `0, milliseconds until the lease ends`, or `-1,
/// 0` if the deadline has passed. If an owner repeats its request because the connection broke, the owner gets the same
/// token again.
///
/// Tokens follow the server's time in microseconds, and the counter in case the clock is set back. Tokens therefore
/// grow even after the store has lost data, unless a guard reserved more than a million tokens per second. Such numbers
/// are below 2^53, and therefore exact in Lua.
const ACQUIRE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('GET', KEYS[1])
if held then
    if string.sub(held, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then
        return {now, 1, tonumber(string.sub(held, #ARGV[1] + 2, -2))}
    end
    return {now, 0, redis.call('PTTL', KEYS[1])}
end
if now > tonumber(ARGV[5]) then
    return {now, -1, 0}
end
local last = math.max(now, tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(ARGV[4]))
local first = string.format('%.0f', last + 1)
redis.call('SET', KEYS[2], string.format('%.0f', last + ARGV[2]))
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. first .. ';', 'PX', ARGV[3])
return {now, 1, tonumber(first)}
";

/// `KEYS`: locks. `ARGV`: lease in milliseconds, then a prefix of the value of each lock. Returns 1 for each lock that is
/// still held, and 0 for the others.
const RENEW: &str = r"
local held = {}
for i = 1, #KEYS do
    local value = redis.call('GET', KEYS[i])
    local prefix = ARGV[i + 1]
    held[i] = 0
    if value and string.sub(value, 1, #prefix) == prefix then
        held[i] = redis.call('PEXPIRE', KEYS[i], ARGV[1])
    end
end
return held
";

/// `KEYS`: lock. `ARGV`: a prefix of its value. Returns how many connections have received the release.
///
/// The server also sends each message to all replicas, and to all other nodes of a cluster. Waiters are connected to
/// this server, so no message is sent if there are no waiters.
const RELEASE: &str = r"
local value = redis.call('GET', KEYS[1])
if not value or string.sub(value, 1, #ARGV[1]) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1])
if redis.call('PUBSUB', 'NUMSUB', KEYS[1])[2] == 0 then
    return 0
end
return redis.call('PUBLISH', KEYS[1], '')
";

impl Scripts {
    pub(super) fn new() -> Self {
        Self { acquire: Script::new(ACQUIRE), renew: Script::new(RENEW), release: Script::new(RELEASE) }
    }
}
