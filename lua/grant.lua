-- Says how many slots of one host one instance holds and how many more it wants, and takes, keeps,
-- queues or gives back. Acquire, release, waiting, repeat and re-assert after a reconnect are all
-- this one message, because its numbers are absolute: running it twice changes nothing more.
--
-- KEYS  1 the host's hash: <instance> -> slots held, as "5", or with more behind it: "+2" of its
--         requests are queued, "~3" of its slots are unused, "^17" the last message that gave back
--         and got; #t all slots held, #c the limit in force as "term:limit", #g generation last
--         swept; once somebody went short: #q requests queued, #k slots unused, #r last recall (ms)
--       2 @w: <instance> -> epoch; #s generation, with G (granting) or L (learning) before it;
--         #first the first one after the last loss of data; #until end of learning (ms)
--       3 the host's queue: a list of instances, one entry for each request, first come first
-- ARGV  1 instance  2 its epoch  3 number of the message, rising
--       4 hold: slots it keeps  5 heard: slots it knows to be its own
--       6 ask: slots it wants now or not at all  7 wait: those it queues for
--       8 spare: how many of those held are unused  9 slack: unused ones it would like on top
--       10 limit by its own rules, 0 = unlimited  11 the same as "term:limit"
--       12 '' or nothing for an ordinary message; 'T' the same, and the key is kept for another day;
--          to re-assert after a hello: 'F' what was vouched for, 'A' what was not. Both are put on the
--          books alike; an instance makes no grant of what was not
--       13 the command that sends hints: PUBLISH or nothing, or SPUBLISH on a cluster
-- Returns slots granted * 2^26 + all slots held, as one number, where that says it all; -1 when the
--         epoch is not in force: the instance was reaped, has a newer connection, or the data was
--         lost; else, and always while Redis learns, {granted, all, learning: ms left or -1, own
--         requests queued, others', limit in force, unused slots of all, instances on the host}.
-- Hints   to <@n:instance>: 'g' and the host's key for a slot that was given to its queue; 'r', a
--         number, a space and the key where so many wait for what others could do without.
-- Invariant: #t is the sum of the slots held; it never rises past the limit but by 'F'. A slot that
-- comes free is the first queued instance's at once; nobody overtakes the queue. Of two limits the
-- one of the higher term holds, in one term the lower. A message of an epoch that is not in force
-- changes nothing; a host without slots and queue has no key.
-- Cost: O(1), three inner calls. Who goes short adds four, a slot handed on three; the first such
-- message after a death counts the host's fields anew, once: O(instances on the host). Recalls are
-- O(instances on the host), at most four in a second.

local call, format = redis.call, string.format
local host, workers, id = KEYS[1], KEYS[2], ARGV[1]
local known = call('HMGET', workers, id, '#s')
if known[1] ~= ARGV[2] then
  return -1
end
local generation = known[2]
local row = call('HMGET', host, id, '#t', '#c', '#g', '#q')
if row[4] and row[4] ~= generation then
  -- What is from before the last loss of data may be old: all who hold slots say so again.
  if string.sub(row[4], 2) - call('HGET', workers, '#first') < 0 then
    call('DEL', host, KEYS[3])
    row = {}
  end
end
local hold, manner = ARGV[4] + 0, ARGV[12] or ''

-- PERF: the common case in few steps: nobody waits or has died, the limit is known, there is room.
-- A number read out of a text, or made one, is a tenth of an inner call: not where it can be avoided.
local plain = tonumber(row[1] or 0)
if plain and (not row[2] or row[3] == ARGV[11] and row[4] == generation)
    and (not row[5] or row[5] == '0') and ARGV[8] == '0' and ARGV[9] == '0' and manner == ''
    and ARGV[10] ~= '0' and string.byte(generation) == 71 then -- 'G'
  local have, held = hold, ARGV[4]
  if ARGV[6] ~= '0' or ARGV[7] ~= '0' then
    have = hold + ARGV[6] + ARGV[7]
    held = format('%d', have)
  end
  local total = (row[2] or 0) + have - plain
  if have <= plain and have == hold or total <= ARGV[10] + 0 then
    if have == plain then
      return have * 67108864 + total
    elseif total <= 0 then
      call('DEL', host, KEYS[3])
    elseif have == 0 then
      call('HDEL', host, id)
      call('HSET', host, '#t', format('%d', total))
    elseif row[2] then
      call('HSET', host, '#t', format('%d', total), id, held)
    else
      call('HSET', host, '#t', format('%d', total), '#c', ARGV[11], '#g', generation,
        id, held)
      call('EXPIRE', host, '86400')
    end
    return have * 67108864 + total
  end
end

local limit, hint = ARGV[10] + 0, ARGV[13] or 'PUBLISH'

local function parse(text)
  -- PERF: most are plain numbers, and after a death all are read.
  local plain = tonumber(text)
  if plain then
    return plain, 0, 0
  end
  local held, queued, unused, number = string.match(text, '^(%d+)%+?(%d*)~?(%d*)%^?(%d*)$')
  return held + 0, tonumber(queued) or 0, tonumber(unused) or 0, number ~= '' and number or nil
end

-- PERF: numbers go to Redis as text: it would write a Lua number by "%.17g".
local function text(held, queued, unused, number)
  local all = format('%d', held)
  if queued > 0 then
    all = all .. format('+%d', queued)
  end
  if unused > 0 then
    all = all .. format('~%d', unused)
  end
  return number and all .. '^' .. number or all
end

local have, mine, unused, last = plain, 0, 0, nil
if not have then
  have, mine, unused, last = parse(row[1])
end
local had, was_unused, was_mine = have, unused, mine
local total, queued = (row[2] or 0) + 0, (row[5] or 0) + 0
local was_queued, written = queued, total
local is_short = false

if row[3] and row[3] ~= ARGV[11] then
  local term, stored = string.match(row[3], '^(%d+):(%d+)$')
  local newer = string.match(ARGV[11], '^%d+') - term
  stored = stored + 0
  if newer > 0 or newer == 0 and limit > 0 and (stored == 0 or limit < stored) then
    call('HSET', host, '#c', ARGV[11])
  else
    limit = stored
    is_short = true -- it is to be told
  end
end

local may_grant = limit == 0 or string.byte(generation) ~= 76 -- 'L'
local is_again = last == ARGV[3] -- this very message has run
local is_asserted = manner == 'F' or manner == 'A'
local number, learning = nil, nil
local want, waits, debt, unheard = 0, 0, 0, 0
if is_again then
  want = 0 -- what it got, and what others did since, stays
elseif is_asserted and string.byte(generation) == 76 then
  have = hold -- what is open is open, whoever vouches for it
elseif is_asserted then
  -- Once learning is over, somebody else may have what this instance says it holds.
  have = math.min(have, hold)
  want = hold - have
else
  want = ARGV[6] + ARGV[7]
  -- What the queue got since the last answer was heard of is kept, as far as it is wanted.
  unheard = math.min(math.max(have - math.max(ARGV[5] + 0, hold), 0), want)
  debt = math.max(hold - have, 0)
  have = math.min(have, hold + unheard)
  want = want - unheard + debt
  -- What is open already, beyond what was granted, goes on the books before anything new opens.
  waits = math.max(ARGV[7] - unheard, 0)
end
total = total + have - had

if not may_grant then
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  learning = math.max(tonumber(call('HGET', workers, '#until') or 0) - now, 0)
elseif not is_again and (want > 0 or queued > 0) then
  if row[2] and row[4] ~= generation
      and (queued > 0 or limit > 0 and limit - total < want or limit == 0 and total > have) then
    -- Somebody died since this host was last looked at, and nobody knows which hosts a dead
    -- instance held. (An unlimited host refuses nobody, but its sum is to be true all the same.)
    local all = call('HGETALL', host)
    local ids, values = {}, {}
    for i = 1, #all, 2 do
      if string.byte(all[i]) ~= 35 and all[i] ~= id then -- '#'
        ids[#ids + 1] = all[i]
        values[#values + 1] = all[i + 1]
      end
    end
    local lent = was_unused
    total, queued = have, mine
    for first = 1, #ids, 1000 do -- unpack has a bound
      local final = math.min(first + 999, #ids)
      local epochs = call('HMGET', workers, unpack(ids, first, final))
      for i = first, final do
        if epochs[i - first + 1] then
          local held, waiting, idle = parse(values[i])
          total, queued, lent = total + held, queued + waiting, lent + idle
        else
          call('HDEL', host, ids[i])
        end
      end
    end
    call('HSET', host, '#t', format('%d', total), '#g', generation, '#k', format('%d', lent),
      '#q', format('%d', queued))
    row[5], written, was_queued = row[5] or '0', total, queued
    if queued == 0 then
      call('DEL', KEYS[3]) -- what the dead left in it
    end
  end

  local most = limit == 0 and 0 or math.min(want, debt > 0 and debt or waits)
  if mine > most and not is_asserted then
    call('LREM', KEYS[3], most - mine, id) -- from the end: the places taken first stay
    queued, mine = queued - (mine - most), most
  end
  local got = 0
  while queued > 0 and (limit == 0 or total < limit) do
    local first = call('LPOP', KEYS[3])
    local value = first and first ~= id and call('HGET', host, first)
    if not first then
      -- The list was lost; who waits is to take a place again.
      queued, mine = 0, 0
      local all = call('HGETALL', host)
      for i = 1, #all, 2 do
        if string.byte(all[i]) ~= 35 and all[i] ~= id then
          local held, _, idle = parse(all[i + 1])
          call('HSET', host, all[i], text(held, 0, idle))
        end
      end
    elseif first == id and mine > 0 then
      mine, queued, have, total, got = mine - 1, queued - 1, have + 1, total + 1, got + 1
    elseif value then
      local held, waiting, idle, of = parse(value)
      if waiting > 0 then
        queued, total = queued - 1, total + 1
        call('HSET', host, first, text(held + 1, waiting - 1, idle, of))
        call(hint, string.sub(workers, 1, -2) .. 'n:' .. first, 'g' .. host)
      end
    end
  end
  want = want - got
  if queued == 0 then
    local room = math.max(0, limit == 0 and want or math.min(want, limit - total))
    have, total, want = have + room, total + room, want - room
  end

  waits = hold > have and hold - have or waits - math.max(got - debt, 0)
  waits = limit == 0 and 0 or math.min(want, waits)
  local more = waits - mine
  if more > 0 and not is_asserted then
    for done = 0, more - 1, 1000 do
      local entries = {}
      for i = 1, math.min(1000, more - done) do
        entries[i] = id
      end
      local length = hold > have and call('LPUSH', KEYS[3], unpack(entries))
        or call('RPUSH', KEYS[3], unpack(entries))
      if length == #entries then
        call('EXPIRE', KEYS[3], '86400')
      end
    end
    queued, mine = queued + more, waits
  end
  number = got > 0 and ARGV[3] or nil
end
if (mine > 0 or unheard > 0) and not is_again then
  number = ARGV[3]
end

-- Slots ahead of need come from what is plentiful, never from what somebody waits for.
if not is_again then
  unused = math.min(ARGV[8] + 0, have)
  if manner == '' and want == 0 and queued == 0 and limit > 0 and may_grant then
    local more = math.max(0, math.min(ARGV[9] + 0, math.floor((limit - total) / 2)))
    have, total, unused = have + more, total + more, unused + more
  end
end

if total <= 0 and queued <= 0 then
  if row[2] then
    call('DEL', host, KEYS[3])
  end
  row[2] = nil
elseif not row[2] then
  -- A new key holds nobody dead. It outlives a fleet that vanished whole by a day at most; a
  -- living one says 'T' long before.
  call('HSET', host, '#t', format('%d', total), '#c', ARGV[11], '#g', generation,
    id, text(have, mine, unused, number))
  call('EXPIRE', host, '86400')
  row[2] = '0'
elseif not is_again
    and (have ~= had or mine ~= was_mine or unused ~= was_unused or total ~= written or number
      or last) then
  if have == 0 and mine == 0 then
    call('HDEL', host, id)
    call('HSET', host, '#t', format('%d', total))
  elseif mine > 0 or unused > 0 or number then
    call('HSET', host, '#t', format('%d', total), id, text(have, mine, unused, number))
  else
    local held = format('%d', have)
    call('HSET', host, '#t', format('%d', total), id, held)
  end
end
if row[2] then
  if queued ~= was_queued then
    call('HSET', host, '#q', format('%d', queued))
    if queued == 0 then
      call('DEL', KEYS[3])
    end
  end
  if unused ~= was_unused then
    call('HINCRBY', host, '#k', unused - was_unused)
  end
  if manner == 'T' then
    call('EXPIRE', host, '86400')
    call('EXPIRE', KEYS[3], '86400')
  end
end

if learning then
  return { have, total, learning, mine, queued - mine, limit, 0, 1 }
end
if want <= 0 and queued <= 0 and not is_short then
  return have * 67108864 + total
end
local slow = call('HMGET', host, '#k', '#r')
if (want > 0 or queued > 0) and row[2] then
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if now - (slow[2] or 0) >= 250 then
    slow[2] = format('%.0f', now)
    call('HSET', host, '#r', slow[2])
    local note = format('r%d ', math.max(queued, want)) .. host
    for _, other in ipairs(call('HKEYS', host)) do
      if string.byte(other) ~= 35 and other ~= id then
        call(hint, string.sub(workers, 1, -2) .. 'n:' .. other, note)
      end
    end
  end
end
local numbers = 3 + ((row[5] or queued > 0) and 1 or 0) + (slow[1] and 1 or 0) + (slow[2] and 1 or 0)
local instances = math.max(1, call('HLEN', host) - numbers)
return { have, total, -1, mine, queued - mine, limit, tonumber(slow[1] or 0), instances }
