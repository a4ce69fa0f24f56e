-- The first message on every new connection of an instance: its new epoch, its lease, and whether
-- what Redis knows about the fleet can still be true.
--
-- KEYS  1 @w: <instance> -> epoch; #s state and generation ("G7", "L7" while learning), #first the
--         generation this term began with: what hosts' keys hold from before it is void; #run the
--         Redis process that was last seen, #until end of learning (ms)
--       2 @lease: <instance> -> end of its lease, ms of Redis time
-- ARGV  1 instance  2 the epoch of its last hello that was answered, 0 = none  3 its new epoch
--       4 lease in ms  5 '1' if by its own clock its last lease still holds
-- Returns {mode, learning: ms left or -1, instances, eviction policy or ''}. Mode 'F': what this
-- instance holds is vouched for and is re-asserted as it is; 'A': it is admitted anew, as far as
-- there is room; 'X': a newer hello of this instance has run, nothing was changed.
-- Invariant: an epoch only rises. After a loss of data nothing new is granted until every lease
-- that could have been given before it has run out.
-- Cost: O(1); some 100 us for INFO, once per connection.

local workers, leases = KEYS[1], KEYS[2]
local id, previous, epoch = ARGV[1], ARGV[2], ARGV[3]
local lease = tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Empty where an ACL forbids INFO.
local function info(section)
  local text = redis.pcall('INFO', section)
  return type(text) == 'string' and text or ''
end

local known = redis.call('HMGET', workers, id, '#run', '#s', '#until')
if known[1] and tonumber(known[1]) >= tonumber(epoch) then
  return { 'X', -1, 0, '' }
end

local server = info('server')
local run = string.match(server, 'run_id:(%w+)') or ''
local state, ends = known[3], tonumber(known[4] or 0)
local lost = not state
local restarted = known[2] and known[2] ~= '' and run ~= '' and known[2] ~= run

if lost or restarted then
  -- No lease was renewed after the process that knew it died, so learning ends one lease after
  -- the start of this one; unless something says that this process itself forgot.
  local start = tonumber(string.match(server, 'uptime_in_seconds:(%d+)') or 0)
  local replication, stats = info('replication'), info('commandstats') .. info('stats')
  local forgot = run == ''
    or (lost and (tonumber(previous) > 0 or redis.call('EXISTS', leases) == 1))
    or string.match(server, 'redis_mode:(%w+)') ~= 'standalone'
    or string.match(replication, 'role:(%w+)') ~= 'master'
    or string.match(replication, 'master_replid2:(%w+)') ~= string.rep('0', 40)
    or string.match(replication, 'second_repl_offset:(%S+)') ~= '-1'
    or string.find(stats, 'cmdstat_flushall:', 1, true)
    or string.find(stats, 'cmdstat_flushdb:', 1, true)
    or string.find(stats, 'cmdstat_swapdb:', 1, true)
    or string.find(stats, 'evicted_keys:[1-9]')
  ends = (forgot and now or now - start * 1000) + lease
  -- The generation starts at the time of day, so that none is met twice, whatever the clock of the
  -- process before. Old entries are reaped by the heartbeat that ends learning, even if that is due
  -- at once.
  local first = math.max(now, (state and tonumber(string.sub(state, 2)) or 0) + 1)
  state = ((ends > now or restarted) and 'L' or 'G') .. string.format('%.0f', first)
  redis.call('HSET', workers, '#run', run, '#s', state, '#first', string.sub(state, 2),
    '#until', string.format('%.0f', ends))
elseif run ~= '' and known[2] ~= run then
  redis.call('HSET', workers, '#run', run)
end

local learning = string.byte(state) == 76 -- 'L'
local mode = 'A'
if ARGV[5] == '1' and ((learning and ends > now) or known[1] == previous) then
  mode = 'F'
end
redis.call('HSET', workers, id, epoch)
redis.call('ZADD', leases, now + lease, id)
-- Only what a whole fleet left behind ever expires: heartbeats move this on.
redis.call('EXPIRE', workers, 86400)
redis.call('EXPIRE', leases, 86400)
return {
  mode,
  learning and math.max(ends - now, 0) or -1,
  redis.call('ZCARD', leases),
  string.match(info('memory'), 'maxmemory_policy:(%S+)') or '',
}
