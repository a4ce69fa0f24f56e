-- Kept responses that a fleet shares, and who of it fetches one.
--
-- KEYS  1 place: string, another one each time that all kept of this place was forgotten
--       2 entries, hash: 'o' ids of 16 letters, the newest first; of each 'v<id>' for which requests it is,
--         'g<id>' the place when it was asked for, 'e<id>' the entry
--       3 flight, hash: 't' its leader's token, 'u' until when that leads (ms of Redis time), 's' state: 'w'
--         nothing yet, 'h' head said, 'e' whole, 'f' failed, 'o' for each instance to fetch,
--         'x' nobody else's; 'h' head, 'n' bytes of the body so far, 'r' why it failed, 'g' the place, 'w' somebody waits
--       4 body of the flight so far, string
-- ARGV  1 channel  2 PUBLISH or SPUBLISH  3 the flight's name (of 'forget': the place's)
--       4 'look'    5 id, or '' for the only one
--         'fly'     5 token  6 lease, ms  7 a text for the place  8 '1' to look first  9 token that is known
--                   10 '1' if its head is  11 bytes of its body that are  12 most bytes
--         'say'     5 token  6 lease, ms  7 head or ''  8 more of the body
--         'keep'    5 token or ''  6 a text for the place  7 life, ms  8 id  9 for which requests
--                   10 front of the entry: 13 bytes, head, 8 bytes  11 body  12 '1' if 4 comes before that
--         'over'    5 token  6 'f', 'o', 'x', or '' to give it up  7 for how long, ms  8 why
--         'forget'  5 who says so
-- Returns 'look': {'kept', entry}, {'of', id, for which requests, ...}, {}
--         'fly': that of 'look' if there is any; {'apart'}; {'own'}; {'flies', token, state, bytes so far, head or
--                '', more of the body, ms of the lease}; {'failed', why}; {'lead'}
--         'say', 'keep', 'over': {'1'}, or {'0'} for who does not lead
-- Says  'f' and the flight's name when there is news for who waits; 'g', the place's name, ' ' and 5.
-- Invariant: nobody leads whose lease another has taken over; what was asked for before its place was
-- forgotten is not found after that. Of 16 variants the oldest goes. All keys have a life.
-- Cost: O(bytes), and O(16) where there are variants.

local call = redis.call
local place, entries, flight, body = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local verb, token = ARGV[4], ARGV[5]
local ID, MOST = 16, 16
-- For how long what is over is still told to who followed, ms.
local LINGER = 10000

local function tell()
  if call('HGET', flight, 'w') then
    call(ARGV[2], ARGV[1], 'f' .. ARGV[3])
  end
end

local function live(key, life)
  if call('PTTL', key) < tonumber(life) then
    call('PEXPIRE', key, life)
  end
end

local function look(id)
  local order, known = call('HGET', entries, 'o'), call('GET', place)
  if not order or not known then
    return nil
  end
  if id == '' and #order == ID then
    id = order
  end
  if id ~= '' then
    local row = call('HMGET', entries, 'g' .. id, 'e' .. id)
    return row[1] == known and row[2] and { 'kept', row[2] } or nil
  end
  local told = { 'of' }
  for at = 1, #order, ID do
    local one = string.sub(order, at, at + ID - 1)
    local row = call('HMGET', entries, 'g' .. one, 'v' .. one)
    if row[1] == known and row[2] then
      told[#told + 1] = one
      told[#told + 1] = row[2]
    end
  end
  return #told > 1 and told or nil
end

if verb == 'look' then
  return look(token) or {}
end

if verb == 'forget' then
  call('UNLINK', place, entries)
  call(ARGV[2], ARGV[1], 'g' .. ARGV[3] .. ' ' .. ARGV[5])
  return { '1' }
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if verb == 'fly' then
  local lease, known, offset = ARGV[6], ARGV[9], tonumber(ARGV[11])
  if ARGV[8] == '1' then
    local found = look('')
    if found then
      return found
    end
  end
  local row = call('HMGET', flight, 't', 'u', 's', 'h', 'n', 'r')
  local leader, state, runs = row[1], row[3], row[2] and tonumber(row[2]) > now
  if (state == 'x' or state == 'o') and runs then
    return { state == 'x' and 'apart' or 'own' }
  end
  if state == 'f' and leader == known then
    return { 'failed', row[6] or '' }
  end
  if ((state == 'w' or state == 'h') and runs) or (state == 'e' and leader == known) then
    call('HSET', flight, 'w', '1')
    local head, piece, length = '', '', tonumber(row[5] or 0)
    if leader ~= known then
      head = row[4] or ''
    else
      if ARGV[10] ~= '1' then
        head = row[4] or ''
      end
      if length > offset then
        piece = call('GETRANGE', body, offset, offset + ARGV[12] - 1)
      end
    end
    local left = string.format('%.0f', math.max(tonumber(row[2]) - now, 0))
    return { 'flies', leader, state, string.format('%.0f', length), head, piece, left }
  end
  call('UNLINK', flight, body)
  local life = lease + LINGER
  local is = call('GET', place)
  if not is then
    is = ARGV[7]
    call('SET', place, is, 'PX', life)
  end
  live(place, life)
  call('HSET', flight, 't', token, 'u', string.format('%.0f', now + lease), 's', 'w', 'g', is)
  call('PEXPIRE', flight, life)
  return { 'lead' }
end

local leads = token ~= '' and call('HGET', flight, 't') == token
if token ~= '' and not leads then
  return { '0' }
end

if verb == 'say' then
  local state = call('HGET', flight, 's')
  if state ~= 'w' and state ~= 'h' then
    return { '0' }
  end
  local life = ARGV[6] + LINGER
  if ARGV[7] ~= '' then
    call('HSET', flight, 'h', ARGV[7], 's', 'h')
  end
  if ARGV[8] ~= '' then
    call('HSET', flight, 'n', call('APPEND', body, ARGV[8]))
  end
  call('HSET', flight, 'u', string.format('%.0f', now + ARGV[6]))
  call('PEXPIRE', flight, life)
  call('PEXPIRE', body, life)
  live(place, life)
  if ARGV[7] ~= '' or ARGV[8] ~= '' then
    tell()
  end
  return { '1' }
end

if verb == 'over' then
  if ARGV[6] == '' then
    tell()
    call('UNLINK', flight, body)
    return { '1' }
  end
  call('HSET', flight, 's', ARGV[6], 'r', ARGV[8], 'u', string.format('%.0f', now + ARGV[7]))
  call('PEXPIRE', flight, ARGV[7])
  call('UNLINK', body)
  tell()
  return { '1' }
end

-- 'keep'
local life, id, front, all = ARGV[7], ARGV[8], ARGV[10], ARGV[11]
if ARGV[12] == '1' then
  all = (call('GET', body) or '') .. all
end
local is = call('GET', place)
local asked = leads and call('HGET', flight, 'g') or is
if not leads and not is then
  is, asked = ARGV[6], ARGV[6]
  call('SET', place, is, 'PX', life)
end
if is and is == asked then
  local order = id
  local known = call('HGET', entries, 'o') or ''
  for at = 1, #known, ID do
    local one = string.sub(known, at, at + ID - 1)
    if one ~= id then
      if #order < ID * MOST then
        order = order .. one
      else
        call('HDEL', entries, 'v' .. one, 'g' .. one, 'e' .. one)
      end
    end
  end
  call('HSET', entries, 'o', order, 'v' .. id, ARGV[9], 'g' .. id, is, 'e' .. id, front .. all)
  live(place, life)
  live(entries, life)
end
if leads then
  if call('HGET', flight, 'w') then
    call('SET', body, all, 'PX', LINGER)
    call('HSET', flight, 'h', string.sub(front, 14, -9), 'n', #all)
  end
  call('HSET', flight, 's', 'e')
  call('PEXPIRE', flight, LINGER)
  tell()
end
return { '1' }
