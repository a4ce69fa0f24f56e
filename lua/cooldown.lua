-- Until when upstreams are left alone, as they asked; all instances are told of each change.
--
-- KEYS  1 not used
--       2 @p:cooldown: sorted set of names; score: end in ms of Redis time * 1000 + status of the
--         answer that asked for it. All that there are, of all APIs
-- ARGV  1 channel  2 command that publishes  3 beginning of the message
--       4 'set'  5 name  6 ms left  7 status  8 '1' if more was asked for than is obeyed
--         'end'  5 name                         an operator's word: it is over
--         'all'  5 beginning of names           what there is
-- Returns 1 if something changed, else 0; 'all': {name, ms left, status, ...}.
-- Says  'set', ms left, status, 8  and  'end'.
-- Invariant: an end only moves later, but for 'end'. At most 4096 are kept: those that end last. The
-- key lives until the last of them ends.
-- Cost: O(log cool-downs), and once for each that is over; 'all' O(cool-downs), once for each API
-- and connection of an instance.

local call = redis.call
local all, verb, name = KEYS[2], ARGV[4], ARGV[5]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if verb == 'end' then
  local count = call('ZREM', all, name)
  call(ARGV[2], ARGV[1], ARGV[3] .. 'end')
  return count
end

call('ZREMRANGEBYSCORE', all, '-inf', string.format('(%.0f', (now + 1) * 1000))
if verb == 'all' then
  local rows = call('ZRANGE', all, 0, -1, 'WITHSCORES')
  local found = {}
  for i = 1, #rows, 2 do
    if string.sub(rows[i], 1, #name) == name then
      local score = tonumber(rows[i + 1])
      local over = math.floor(score / 1000)
      found[#found + 1] = rows[i]
      found[#found + 1] = over - now
      found[#found + 1] = score - over * 1000
    end
  end
  return found
end

local left = tonumber(ARGV[6])
local known = tonumber(call('ZSCORE', all, name) or 0)
if now + left <= math.floor(known / 1000) then
  return 0
end
call('ZADD', all, string.format('%.0f', (now + left) * 1000 + ARGV[7]), name)
call('ZREMRANGEBYRANK', all, 0, -4097)
if call('PTTL', all) < left then
  call('PEXPIRE', all, left)
end
call(ARGV[2], ARGV[1], ARGV[3] .. 'set\n' .. ARGV[6] .. '\n' .. ARGV[7] .. '\n' .. ARGV[8])
return 1
