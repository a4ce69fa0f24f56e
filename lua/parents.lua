-- What instances know of the parents of an API: which are not used for a host, or for all.
--
-- KEYS  1 <topic>:<api>: "<parent> <host>", or "<parent> *" -> "<end, ms of Redis time> <why> <length, ms>"
--       2 not used
-- ARGV  1 channel  2 PUBLISH or SPUBLISH  3 beginning of each message
--       4 'ban'   5 field  6 why  7 how long still, ms  8 length of the ban, ms
--         'free'  5 field
--         'all'
-- Returns for 'all' of each ban that holds: field, why, how long still in ms, length; else nothing.
-- Invariant: a ban that is there is never made shorter but by 'free'; the key goes when its longest
-- ban has ended. Of more than 4096 fields those that have ended go, and what is new then is told but
-- not kept if there is still no room.
-- Cost: O(1); O(bans) for 'all', and where there is no room.

local call = redis.call
local key, verb, field = KEYS[1], ARGV[4], ARGV[5]
local MOST = 4096

local function tell(...)
  call(ARGV[2], ARGV[1], ARGV[3] .. table.concat({ ... }, '\n'))
end

if verb == 'free' then
  if call('HDEL', key, field) == 1 then
    tell('free', field)
  end
  return {}
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if verb == 'all' then
  local told = {}
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    local ends, why, length = string.match(all[i + 1], '^(%d+) (%S+) (%d+)$')
    if ends and tonumber(ends) > now then
      told[#told + 1] = all[i]
      told[#told + 1] = why
      told[#told + 1] = string.format('%.0f', ends - now)
      told[#told + 1] = length
    end
  end
  return told
end

local why, left, length = ARGV[6], tonumber(ARGV[7]), ARGV[8]
local known = call('HGET', key, field)
if known and tonumber(string.match(known, '^%d+')) >= now + left then
  return {}
end
tell('ban', field, why, ARGV[7], length)
if not known and call('HLEN', key) >= MOST then
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    if tonumber(string.match(all[i + 1], '^%d+')) <= now then
      call('HDEL', key, all[i])
    end
  end
  if call('HLEN', key) >= MOST then
    return {}
  end
end
call('HSET', key, field, string.format('%.0f %s %s', now + left, why, length))
if call('PTTL', key) < left then
  call('PEXPIRE', key, string.format('%.0f', left))
end
return {}
