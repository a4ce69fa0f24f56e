-- Says how many slots of one host one instance needs, and takes, keeps or gives back that many.
-- Acquire, release, repeat and re-assert after a reconnect are all this one message, because the
-- number is absolute: running it twice changes nothing.
--
-- KEYS  1 the host's hash: <instance> -> slots granted, #t their sum, #g generation last swept
--       2 @w: <instance> -> epoch, #s generation, with G (granting) or L (learning) before it
-- ARGV  1 instance  2 its epoch  3 need: slots in all  4 limit, 0 = unlimited
--       5 '' for an ordinary message; 'F' re-assert: hold the need whatever the limit says, because
--         hello vouched for it; 'T' the same as '', and the key is kept for another day
-- Returns slots granted * 2^26 + sum of all, as one number; -1 when the epoch is not in force: the
--         instance was reaped, has a newer connection, or the data was lost; and where the need is
--         not met because Redis is learning: {granted, sum of all, ms left}.
-- Invariant: #t is the sum of the fields; it never rises past the limit but by 'F'; a message of an
-- epoch that is not in force changes nothing; a host without slots has no key.
-- Cost: O(1), three inner calls, four when a field or the key comes or goes. The first refusal
-- after a death counts the host's fields anew, once: O(instances on the host).

local call, format = redis.call, string.format
local host, workers, id = KEYS[1], KEYS[2], ARGV[1]
local known = call('HMGET', workers, id, '#s')
if known[1] ~= ARGV[2] then
  return -1
end
local generation = known[2]
local row = call('HMGET', host, id, '#t', '#g')
local need, limit = ARGV[3] + 0, ARGV[4] + 0
local have, total = (row[1] or 0) + 0, (row[2] or 0) + 0

local want = need - have
local bound = want > 0 and limit > 0 and ARGV[5] ~= 'F'
local learning = nil

if bound and string.byte(generation) == 76 then -- 'L'
  want = 0
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  learning = math.max(tonumber(call('HGET', workers, '#until') or 0) - now, 0)
elseif row[2] and row[3] ~= generation
    and (bound and limit - total < want or limit == 0 and total > have) then
  -- Somebody died since this host was last looked at, and nobody knows which hosts a dead instance
  -- held. (An unlimited host refuses nobody, but its sum is to be true all the same.)
  local all = call('HGETALL', host)
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
    local epochs = call('HMGET', workers, unpack(ids, first, last))
    for i = first, last do
      if epochs[i - first + 1] then
        total = total + counts[i]
      else
        call('HDEL', host, ids[i])
      end
    end
  end
  call('HSET', host, '#t', total, '#g', generation)
end
if bound then
  want = math.max(0, math.min(want, limit - total))
end

-- PERF: numbers go to Redis as text (it would write a Lua number by "%.17g") and come back as one
-- number instead of an array: 10.5 us for acquire and release instead of 13 (scripts/bench-grant).
if want ~= 0 then
  total = total + want
  if total <= 0 then
    call('DEL', host)
  elseif have + want == 0 then
    call('HDEL', host, id)
    call('HSET', host, '#t', format('%d', total))
  elseif row[2] then
    local text = have + want == need and ARGV[3] or format('%d', have + want)
    call('HSET', host, '#t', format('%d', total), id, text)
  else
    -- A new key holds nobody dead. It outlives a fleet that vanished whole by a day at most;
    -- a living one says 'T' long before.
    local text = format('%d', total)
    call('HSET', host, '#t', text, id, text, '#g', generation)
    call('EXPIRE', host, '86400')
  end
end
if ARGV[5] == 'T' and total > 0 then
  call('EXPIRE', host, '86400')
end
local granted = have + want
if learning then
  return { granted, total, learning }
end
return granted * 67108864 + total
