-- How often all kept responses of an API were forgotten; all instances are told of each time.
--
-- KEYS  1 cache:<api>: string, the number
--       2 not used
-- ARGV  1 channel  2 PUBLISH or SPUBLISH  3 beginning of the message
--       4 'at' or 'purge'  5 the number that this instance knows
-- Returns the number.
-- Says  'at', the number.
-- Invariant: it only grows; 'purge' makes it greater than it was, and no less than what is known. It lives
-- longer than anything that is kept under it.
-- Cost: O(1).

local call = redis.call
local key, said = KEYS[1], tonumber(ARGV[5])
local LIFE = 31 * 24 * 3600 * 1000

local known = tonumber(call('GET', key) or 0)
local at = math.max(known, said)
if ARGV[4] == 'purge' and known >= said then
  at = known + 1
end
if at > known then
  local text = string.format('%.0f', at)
  call('SET', key, text, 'PX', LIFE)
  call(ARGV[2], ARGV[1], ARGV[3] .. 'at\n' .. text)
elseif known > 0 then
  call('PEXPIRE', key, LIFE)
end
return { string.format('%.0f', at) }
