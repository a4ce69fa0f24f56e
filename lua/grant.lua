-- Says how many slots of one host one instance needs, and takes, keeps or gives back that many.
-- Acquire, release, repeat and re-assert after a reconnect are all this one message, because the
-- number is absolute: running it twice changes nothing.
--
-- KEYS  1 the host's hash: <instance> -> slots granted, #t their sum, #g generation last swept
--       2 @w: <instance> -> epoch, #s generation, with G (granting) or L (learning) before it
-- ARGV  1 instance  2 its epoch  3 need: slots in all  4 limit, 0 = unlimited
--       5 '' for an ordinary message; 'F' re-assert: hold the need whatever the limit says, because
--         hello vouched for it; 'T' the same as '', and the key is kept for another day
-- Returns {granted, sum of all, learning: ms left or -1}; {-1, 0, -1} when the epoch is not in
-- force: the instance was reaped, has a newer connection, or the data was lost.
-- Invariant: #t is the sum of the fields; it never rises past the limit but by 'F'; a message of an
-- epoch that is not in force changes nothing; a host without slots has no key.
-- Cost: O(1), three inner calls, four when a field or the key comes or goes. The first refusal
-- after a death counts the host's fields anew, once: O(instances on the host).

local host, workers = KEYS[1], KEYS[2]
local id = ARGV[1]
local known = redis.call('HMGET', workers, id, '#s')
if known[1] ~= ARGV[2] then
  return { -1, 0, -1 }
end
local generation = known[2]
local row = redis.call('HMGET', host, id, '#t', '#g')
local need, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
local have, total = tonumber(row[1] or 0), tonumber(row[2] or 0)

-- Slots of instances that are gone come back here: nobody knows which hosts a dead one held.
local function sweep()
  local all = redis.call('HGETALL', host)
  local ids, counts = {}, {}
  for i = 1, #all, 2 do
    if string.byte(all[i]) ~= 35 then -- '#'
      ids[#ids + 1] = all[i]
      counts[#counts + 1] = tonumber(all[i + 1])
    end
  end
  total = 0
  for first = 1, #ids, 1000 do -- unpack has a bound
    local last = math.min(first + 999, #ids)
    local epochs = redis.call('HMGET', workers, unpack(ids, first, last))
    for i = first, last do
      if epochs[i - first + 1] then
        total = total + counts[i]
      else
        redis.call('HDEL', host, ids[i])
      end
    end
  end
  redis.call('HSET', host, '#t', total, '#g', generation)
end

local learning = -1
local granted = need
if need > have and limit > 0 and ARGV[5] ~= 'F' then
  if string.byte(generation) == 76 then -- 'L'
    granted = have
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local ends = tonumber(redis.call('HGET', workers, '#until') or 0)
    learning = math.max(ends - now, 0)
  else
    local want = need - have
    if limit - total < want and row[2] and row[3] ~= generation then
      sweep()
    end
    granted = have + math.max(0, math.min(want, limit - total))
  end
elseif limit == 0 and total > have and row[3] ~= generation then
  sweep() -- an unlimited host refuses nobody, and its sum is to be true all the same
end

if granted ~= have then
  total = total + granted - have
  if total <= 0 then
    redis.call('DEL', host)
  elseif granted == 0 then
    redis.call('HDEL', host, id)
    redis.call('HSET', host, '#t', total)
  elseif row[2] then
    redis.call('HSET', host, '#t', total, id, granted)
  else
    -- A new key holds nobody dead. It outlives a fleet that vanished whole by a day at most;
    -- a living one says 'T' long before.
    redis.call('HSET', host, '#t', total, '#g', generation, id, granted)
    redis.call('EXPIRE', host, 86400)
  end
end
if ARGV[5] == 'T' and total > 0 then
  redis.call('EXPIRE', host, 86400)
end
return { granted, total, learning }
