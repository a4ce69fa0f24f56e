-- Renews the lease of one instance, for all hosts at once; ends learning; forgets the dead.
--
-- KEYS  1 @w: <instance> -> epoch; #s state and generation, #until end of learning, #hb the last
--         heartbeat of anybody, #ok since when heartbeats have come without a gap (ms)
--       2 @lease: <instance> -> end of its lease, ms of Redis time
-- ARGV  1 instance  2 its epoch  3 lease in ms
-- Returns {generation, learning: ms left or -1, instances}; {-1, -1, 0} when the epoch is not in
--         force. Another generation than before: somebody died, and hosts have room again.
-- Invariant: a lease that was renewed in time is never reaped. After an outage everybody has had a
-- whole lease to come back before anybody is; the end of learning forgets all who did not come.
-- Cost: O(log instances); at most 16 are reaped at once, but at the end of learning all expired.

local workers, leases = KEYS[1], KEYS[2]
local known = redis.call('HMGET', workers, ARGV[1], '#s', '#until', '#hb', '#ok')
if known[1] ~= ARGV[2] then
  return { -1, -1, 0 }
end
local lease = tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', leases, now + lease, ARGV[1])

local state, last, since = known[2], tonumber(known[4] or 0), tonumber(known[5] or now)
local generation = string.sub(state, 2) + 0
local learning = -1
local reap = 0
local stamp = string.format('%.0f', now)
if now - last > lease / 2 then
  since = now -- also the first heartbeat ever
  redis.call('HSET', workers, '#hb', stamp, '#ok', stamp)
else
  redis.call('HSET', workers, '#hb', stamp)
end
if string.byte(state) == 76 then -- 'L'
  learning = math.max(tonumber(known[3] or 0) - now, 0)
  if learning == 0 then
    reap = -1
  end
elseif now - since >= lease then
  reap = 16
end

if reap ~= 0 then
  local dead = redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. stamp, 'LIMIT', 0, reap)
  for i = 1, #dead do
    redis.call('HDEL', workers, dead[i])
    redis.call('ZREM', leases, dead[i])
  end
  if #dead > 0 or learning == 0 then
    -- Each host sees that the generation is another, and counts anew when it matters.
    generation = generation + 1
    redis.call('HSET', workers, '#s', 'G' .. string.format('%.0f', generation))
    learning = -1
  end
end
if math.floor(now / 3600000) ~= math.floor(last / 3600000) then
  redis.call('EXPIRE', workers, 86400)
  redis.call('EXPIRE', leases, 86400)
end
return { generation, learning, redis.call('ZCARD', leases) }
