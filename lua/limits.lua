-- Changes the fleet's table of limits, and raises its version with each change.
--
-- KEYS  1 @limits: <pattern> -> limit, or limit and "/shared"; #v version, #at when it was last
--         changed (us of Redis time)
-- ARGV  1 'set'  2 pattern  3 value         sets one rule
--         'rm'   2 pattern                  takes one rule away
--         'put'  2 #v  3 #at  4.. pattern, value, ...
--                                           puts a whole table back that was lost, unless the one
--                                           here is as new
-- Returns {version, 1 if something was changed, else 0}.
-- Invariant: the version never falls; two tables of one version have another #at. The key stays when
-- the last rule goes, so that the version is not forgotten.
-- Cost: O(1); 'put' O(rules).

local call = redis.call
local key, verb, pattern, value = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local version = tonumber(call('HGET', key, '#v') or 0)

if verb == 'put' then
  if version >= tonumber(pattern) then
    return { version, 0 }
  end
  call('DEL', key)
  call('HSET', key, '#v', pattern, '#at', value)
  for i = 4, #ARGV, 2 do
    call('HSET', key, ARGV[i], ARGV[i + 1])
  end
  return { tonumber(pattern), 1 }
end

if verb == 'rm' then
  if call('HDEL', key, pattern) == 0 then
    return { version, 0 }
  end
else
  if call('HGET', key, pattern) == value then
    return { version, 0 }
  end
  call('HSET', key, pattern, value)
end
local time = call('TIME')
call('HSET', key, '#v', string.format('%.0f', version + 1), '#at', time[1] .. '.' .. time[2])
return { version + 1, 1 }
