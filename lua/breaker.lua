-- Keeps the state of one circuit for the whole fleet: counts failures, opens it, gives the places to
-- probe away, closes it, and tells everybody.
--
-- KEYS  1 the circuit's hash: s its state (c closed, o open, h half-open), g generation, v version,
--         f failures in a row, k successes of probes, u end of the time it is open (ms of Redis time),
--         p who probes, as "token=end token=end"
--       2 not used
-- ARGV  1 channel  2 the command that publishes there  3 the beginning of the message
--       4 'bad'   an attempt failed: counts it, opens
--         'good'  one did well: forgets failures, or counts towards closing
--         'try'   a place to probe is wanted
--         'free'  a probe came to nothing: its place is given back
--         'look'  nothing happened: the caller alone is told how things are
--         'sync'  the same, and everybody is told
--         'reset' an operator closes it
--       5 the generation that the attempt, or the instance's mirror, is of; 0 if Redis never said one
--       6 the token of the probe, or ''
--       7 state, 8 failures, 9 ms left that the mirror shows
--       10 failures that open it  11 ms that it stays open  12 successes that close it
--       13 places to probe  14 ms that such a place is kept
-- Returns {1 if a place was given, else 0; version, generation, state, failures, successes, ms left
--         until an attempt may probe, or half-open until a place may come free}, all as text.
-- Message the same, without the first.
-- Invariant: a report of another generation than the present one changes nothing, unless it is of a
-- newer one: then the data was lost, and the mirror's is taken for it. Version and generation never
-- fall, not even when the data is lost: they are us of Redis time where that is more. There are no
-- more places than ARGV 13 says; one whose lease has ended is free.
-- Cost: O(places), three or four inner calls and a message.

local call, floor, format = redis.call, math.floor, string.format
local key, verb, told, token = KEYS[1], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local places = tonumber(ARGV[13])

local time = call('TIME')
local us = time[1] * 1000000 + time[2]
local now = floor(us / 1000)

local row = call('HMGET', key, 's', 'g', 'v', 'f', 'k', 'u', 'p')
local state, generation = row[1] or 'c', tonumber(row[2] or 0)
local version, failures = tonumber(row[3] or 0), tonumber(row[4] or 0)
local successes, ends = tonumber(row[5] or 0), tonumber(row[6] or 0)
local probes, running = {}, 0
for name, lease in string.gmatch(row[7] or '', '(%x+)=(%d+)') do
  if tonumber(lease) > now then
    probes[name], running = tonumber(lease), running + 1
  end
end

local changed = verb == 'sync'

local function begin(new)
  state, successes, probes, running = new, 0, {}, 0
  generation = math.max(generation + 1, us)
  changed = true
  if new == 'o' then
    ends = now + ARGV[11]
  elseif new == 'c' then
    failures = 0
  end
end

local function leave()
  if probes[token] then
    probes[token], running = nil, running - 1
    changed = true
  end
end

if told > generation then
  state, generation, failures, successes = ARGV[7], told, tonumber(ARGV[8]), 0
  ends, probes, running, changed = now + ARGV[9], {}, 0, true
end

local granted = '0'
-- Where nobody said a generation, it can be no older one than that of a closed circuit.
local is_present = told == generation or told == 0 and state == 'c'
if verb == 'reset' then
  begin('c')
elseif verb == 'try' then
  if state == 'o' and ends <= now then
    begin('h')
  end
  if state == 'h' and running < places then
    probes[token], running = now + ARGV[14], running + 1
    granted, changed = '1', true
  end
elseif verb == 'free' then
  leave()
elseif is_present and verb == 'bad' and state ~= 'o' then
  failures, changed = failures + 1, true
  if state == 'h' or failures >= tonumber(ARGV[10]) then
    begin('o')
  end
elseif is_present and verb == 'good' then
  if state == 'h' then
    leave()
    successes, changed = successes + 1, true
    if successes >= tonumber(ARGV[12]) then
      begin('c')
    end
  elseif state == 'c' and failures > 0 then
    failures, changed = 0, true
  end
end

local left = 0
if state == 'o' then
  left = math.max(ends - now, 0)
elseif state == 'h' and running >= places then
  for _, lease in pairs(probes) do
    left = left == 0 and lease - now or math.min(left, lease - now)
  end
end

if changed then
  version = math.max(version + 1, us)
end
local word = { format('%.0f', version), format('%.0f', generation), state,
  format('%.0f', failures), format('%.0f', successes), format('%.0f', left) }
if changed then
  if row[1] or verb ~= 'sync' or told > 0 then
    local list = {}
    for name, lease in pairs(probes) do
      list[#list + 1] = name .. '=' .. format('%.0f', lease)
    end
    call('HSET', key, 's', state, 'g', word[2], 'v', word[1], 'f', word[4], 'k', word[5],
      'u', format('%.0f', ends), 'p', table.concat(list, ' '))
    -- Twice as long as anything here lasts, and some minutes in which late reports are known as such.
    call('PEXPIRE', key, format('%.0f', 2 * (ARGV[11] + ARGV[14]) + 600000))
  end
  call(ARGV[2], ARGV[1], ARGV[3] .. table.concat(word, '\n'))
end
table.insert(word, 1, granted)
return word
