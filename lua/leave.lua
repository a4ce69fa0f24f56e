-- The last message of an instance that stops: it is forgotten at once, not after a lease.
--
-- KEYS  1 @w: <instance> -> epoch; #s state and generation
--       2 @lease: <instance> -> end of its lease
-- ARGV  1 instance  2 its epoch  3 '1' if it gave back all slots before; else each host counts anew
-- Returns 1, or 0 when the epoch is not in force.
-- Invariant: #s and #run stay, for a day, even when the last instance leaves: they say that nothing
-- was lost, so that the next start has nothing to learn, whatever INFO shows from long ago.
-- Cost: O(log instances).

local workers, leases = KEYS[1], KEYS[2]
local known = redis.call('HMGET', workers, ARGV[1], '#s')
if known[1] ~= ARGV[2] then
  return 0
end
redis.call('HDEL', workers, ARGV[1])
redis.call('ZREM', leases, ARGV[1])
if ARGV[3] ~= '1' then
  local following = string.format('%.0f', tonumber(string.sub(known[2], 2)) + 1)
  redis.call('HSET', workers, '#s', string.sub(known[2], 1, 1) .. following)
end
return 1
