-- Takes from all tiers of one key, or from none; gives back what was not used; says how full they are.
--
-- KEYS  1 the key's hash: for each tier a field with what is counted of it (below), as text
--       2 not used
-- ARGV  1 channel  2 the command that publishes there  3 the beginning of each message
--       4 'take'    5 at least this, 6 up to this for those who wait, 7 up to this to be lent, but
--                   8 no more than one in so many of what is left then
--         'back'    5 was taken to be used at once, 6 was lent, 7 then (us); neither was used
--         'look'    how full they are
--         'forget'  an operator gives all of it back
--       9 'r': a refused request takes from the tiers before the one that refuses it, and from that
--         one if it is fixed  10 '' or what was taken of each tier without asking, with spaces between
--       11 '' or the key as apitwo had it: each tier is counted in a key of its own and of its window,
--         limit:<tier>:<key>:<yyyymmddHHMM>, made here since Redis's clock chooses the window
--       12 and on, for each tier: field, letter, five numbers, name
-- Tiers f  limit, window, offset (us): a window of the calendar. Kept as "<window's number> <taken>"
--       s  limit, window, span of an entry: a window that slides. "<last> <taken> <last> <taken> ..."
--       b  burst, units of a token, units for each tick, tick (us), part (ticks): a bucket.
--          "<token> <tick> <units missing> <as of tick> <those that do not come back in this part>"
-- Returns {1 or 0, to be used at once, lent, for how long (us), tier that refuses (1 is the first), for
--         how long (us), now (us)} and for each tier what remains and until when something counts (us).
-- Says  'room' when something was given back, 'short' when something was refused that instances may
--       hold, 'forget' and now (us).
-- Invariant: no tier gives more than its limit in its time (src/policy/quota/ says how each counts, and
-- is held to the same). Nothing is taken from one tier that is not taken from all. Counter and time of
-- expiry are set in one step: a key is gone a second after the last thing that it counts.
-- Cost: O(tiers), four inner calls; in apitwo's layout three for each tier.

local call, floor, ceil, format = redis.call, math.floor, math.ceil, string.format
local min, max = math.min, math.max
local hash, verb, apitwo = KEYS[1], ARGV[4], ARGV[11]
local SHORTEST_LOAN = 20000
local MOST_UNITS = 4503599627370496 -- 2^52

local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local tiers = {}
for i = 12, #ARGV, 8 do
  -- PERF: with all that is put there later, so that the table need not grow.
  tiers[#tiers + 1] = {
    field = ARGV[i], kind = ARGV[i + 1], limit = tonumber(ARGV[i + 2]), a = tonumber(ARGV[i + 3]),
    b = tonumber(ARGV[i + 4]), c = tonumber(ARGV[i + 5]) or 0, d = tonumber(ARGV[i + 6]) or 0,
    name = ARGV[i + 7], by = false, used = 0, index = 0, entries = false, level = 0, at = 0, held = 0,
  }
end

local function whole(number)
  return format('%d', number)
end

-- PERF: what is done to tiers of each kind, made only where there are some.
local make = {}

-- Windows of the calendar: a is the window, b the offset.
function make.f()
  local fixed = {}

  function fixed.read(t, text)
    local index = floor((now + t.b) / t.a)
    local at, used = string.match(text or '', '^(%d+) (%d+)$')
    at, used = tonumber(at or 0), tonumber(used or 0)
    if at < index then
      at, used = index, 0
    elseif at > index + 1 then
      at = index
    end
    t.index, t.used = at, used
  end

  function fixed.room(t)
    return max(t.limit - t.used, 0)
  end

  function fixed.charge(t, cost, lent)
    t.used = t.used + cost + lent
  end

  function fixed.reset(t)
    return max((t.index + 1) * t.a - (now + t.b), 0)
  end

  function fixed.left(t)
    return fixed.reset(t)
  end

  function fixed.valid(t)
    return fixed.reset(t)
  end

  function fixed.back(t, cost, lent, at)
    if floor((at + t.b) / t.a) == t.index then
      t.used = max(t.used - cost - lent, 0)
    end
  end

  function fixed.write(t)
    return whole(t.index) .. ' ' .. whole(t.used)
  end
  return fixed
end

-- Windows that slide: a is the window, b the span of an entry.
function make.s()
  local sliding = {}

  local function part(t, at)
    return t.b == 0 and at or floor(at / t.b)
  end

  function sliding.read(t, text)
    local entries, used = {}, 0
    for at, count in string.gmatch(text or '', '(%d+) (%d+)') do
      entries[#entries + 1] = { at = tonumber(at), count = tonumber(count) }
    end
    local newest = entries[#entries]
    if newest and newest.at > now + t.a + t.b then
      for _, entry in ipairs(entries) do
        used = used + entry.count
      end
      entries = { { at = now, count = used } }
    end
    t.entries, t.used = {}, 0
    for _, entry in ipairs(entries) do
      if entry.at + t.a > now then
        t.entries[#t.entries + 1] = entry
        t.used = t.used + entry.count
      end
    end
  end

  function sliding.room(t)
    return max(t.limit - t.used, 0)
  end

  function sliding.valid(t)
    return t.b == 0 and 0 or (floor(now / t.b) + 1) * t.b - now
  end

  function sliding.charge(t, cost, lent)
    if cost + lent == 0 then
      return
    end
    local at = lent > 0 and now + sliding.valid(t) - 1 or now
    local newest = t.entries[#t.entries]
    if newest and part(t, newest.at) >= part(t, now) then
      newest.at, newest.count = max(newest.at, at), newest.count + cost + lent
    else
      t.entries[#t.entries + 1] = { at = at, count = cost + lent }
    end
    t.used = t.used + cost + lent
  end

  function sliding.left(t, cost)
    local excess, until_ = t.used + cost - t.limit, now
    for _, entry in ipairs(t.entries) do
      if excess <= 0 then
        break
      end
      until_, excess = entry.at + t.a, excess - entry.count
    end
    return max(until_ - now, 0)
  end

  function sliding.reset(t)
    local newest = t.entries[#t.entries]
    return newest and newest.at + t.a - now or 0
  end

  function sliding.back(t, cost, lent, at)
    for i = #t.entries, 1, -1 do
      local entry = t.entries[i]
      if part(t, entry.at) == part(t, at) then
        local count = min(entry.count, cost + lent)
        entry.count, t.used = entry.count - count, t.used - count
        if entry.count == 0 then
          table.remove(t.entries, i)
        end
        break
      end
    end
  end

  function sliding.write(t)
    local words = {}
    for _, entry in ipairs(t.entries) do
      words[#words + 1] = whole(entry.at)
      words[#words + 1] = whole(entry.count)
    end
    return table.concat(words, ' ')
  end
  return sliding
end

-- Buckets: limit is the burst, a the units of a token, b those for each tick, c the tick, d the part.
function make.b()
  local bucket = {}

  local function part_end(t, at)
    return t.d == 0 and at or (floor(at / t.d) + 1) * t.d
  end

  local function drain(t, ticks)
    t.level = max(t.level - min(ticks * t.b, MOST_UNITS), 0)
  end

  function bucket.read(t, text)
    local ticks = floor(now / t.c)
    local token, tick, level, at, held = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
    t.level, t.at, t.held = tonumber(level or 0), tonumber(at or 0), tonumber(held or 0)
    if token and (tonumber(token) ~= t.a or tonumber(tick) ~= t.c) then
      t.level, t.held = ceil(t.level / token * t.a), ceil(t.held / token * t.a)
      t.at = floor(t.at * tick / t.c)
    end
    if t.at > ticks then
      if t.at - ticks > floor(t.a * t.limit / t.b) + t.d then
        t.at = ticks
      end
      return
    end
    local over = part_end(t, t.at)
    if t.held > 0 and over <= ticks then
      drain(t, over - t.at)
      t.level, t.held, t.at = t.level + t.held, 0, over
    end
    drain(t, ticks - t.at)
    t.at = ticks
  end

  function bucket.room(t)
    return floor(max(t.a * t.limit - t.level - t.held, 0) / t.a)
  end

  function bucket.charge(t, cost, lent)
    t.level = min(t.level + cost * t.a, max(t.limit * t.a, t.level))
    t.held = t.held + lent * t.a
  end

  local function when(t, units)
    if units <= 0 then
      return 0
    end
    local ticks, rest = ceil(units / t.b), part_end(t, t.at) - t.at
    if t.held > 0 and (units > t.level or ticks > rest) then
      local came = min(t.level, rest * t.b, units)
      ticks = rest + ceil((units - came) / t.b)
    end
    return max((t.at + ticks) * t.c - now, 0)
  end

  function bucket.left(t, cost)
    return when(t, t.level + t.held + cost * t.a - t.limit * t.a)
  end

  function bucket.reset(t)
    return when(t, t.level + t.held)
  end

  function bucket.valid(t)
    return t.d == 0 and 0 or part_end(t, floor(now / t.c)) * t.c - now
  end

  function bucket.back(t, cost, lent, at)
    t.level = max(t.level - cost * t.a, 0)
    if part_end(t, floor(at / t.c)) == part_end(t, t.at) then
      t.held = max(t.held - lent * t.a, 0)
    end
  end

  function bucket.write(t)
    return table.concat({ whole(t.a), whole(t.c), whole(t.level), whole(t.at), whole(t.held) }, ' ')
  end
  return bucket
end

local kinds = {}

-- The time that a clock shows after so many microseconds since 1970, as yyyymmddHHMM, as far as the
-- window needs it. Days to dates: H. Hinnant, "chrono-compatible low-level date algorithms".
local function stamp(us, window)
  local seconds = floor(us / 1000000)
  local days = floor(seconds / 86400) + 719468
  local era = floor(days / 146097)
  local day = days - era * 146097
  local year = floor((day - floor(day / 1460) + floor(day / 36524) - floor(day / 146096)) / 365)
  day = day - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * day + 2) / 153)
  day = day - floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  local text = format('%04d%02d%02d', year, month, day)
  if window < 86400000000 then
    text = text .. format('%02d', floor(seconds / 3600) % 24)
  end
  if window < 3600000000 then
    text = text .. format('%02d', floor(seconds / 60) % 60)
  end
  return text
end

local function own_key(t)
  return format('limit:%s:%s:%s', t.name, apitwo, stamp(now + t.b, t.a))
end

local function read()
  local texts = {}
  if apitwo ~= '' then
    for i, t in ipairs(tiers) do
      texts[i] = whole(floor((now + t.b) / t.a)) .. ' ' .. (call('GET', own_key(t)) or '0')
    end
  elseif #tiers > 0 then
    local fields = {}
    for i, t in ipairs(tiers) do
      fields[i] = t.field
    end
    texts = call('HMGET', hash, unpack(fields))
  end
  for i, t in ipairs(tiers) do
    kinds[t.kind] = kinds[t.kind] or make[t.kind]()
    t.by = kinds[t.kind]
    t.by.read(t, texts[i] or '')
  end
end

local function write()
  if apitwo ~= '' then
    for _, t in ipairs(tiers) do
      call('SET', own_key(t), whole(t.used), 'PX', whole(ceil(t.by.reset(t) / 1000)))
    end
    return
  end
  local words, life = {}, 0
  for _, t in ipairs(tiers) do
    words[#words + 1] = t.field
    words[#words + 1] = t.by.write(t)
    life = max(life, t.by.reset(t))
  end
  if #words > 0 then
    call('HSET', hash, unpack(words))
    call('PEXPIRE', hash, whole(ceil(life / 1000) + 1000))
  end
end

local function say(word)
  call(ARGV[2], ARGV[1], ARGV[3] .. word)
end

if verb == 'forget' then
  call('DEL', hash)
  if apitwo ~= '' then
    for _, t in ipairs(tiers) do
      call('DEL', own_key(t))
    end
  end
  say('forget\n' .. whole(now))
  return {}
end

read()
local given, cost, lent, valid, refuses, left = 1, 0, 0, 0, 0, 0

if verb == 'back' then
  for _, t in ipairs(tiers) do
    t.by.back(t, tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]))
  end
  write()
  say('room')
elseif verb == 'take' then
  local need, share = tonumber(ARGV[5]), max(tonumber(ARGV[8]), 1)
  local wanted, want = max(need, tonumber(ARGV[6])), tonumber(ARGV[7])
  local changed = false
  if ARGV[10] ~= '' then
    local i = 0
    for owed in string.gmatch(ARGV[10], '%d+') do
      i = i + 1
      if tiers[i] and owed ~= '0' then
        tiers[i].by.charge(tiers[i], tonumber(owed), 0)
        changed = true
      end
    end
  end
  local room, most = wanted, wanted
  valid = 0
  for i, t in ipairs(tiers) do
    local has, good = t.by.room(t), t.by.valid(t)
    room = i == 1 and has or min(room, has)
    valid = i == 1 and good or min(valid, good)
    most = i == 1 and t.limit or min(most, t.limit)
  end
  if room >= need then
    cost = min(wanted, room)
    if valid >= SHORTEST_LOAN then
      lent = min(want, floor((room - cost) / share))
    end
    for _, t in ipairs(tiers) do
      t.by.charge(t, cost, lent)
    end
    changed = true
  else
    given, valid = 0, 0
    for i, t in ipairs(tiers) do
      local is_full = t.by.room(t) < need
      if ARGV[9] == 'r' then
        if not is_full or t.kind == 'f' then
          t.by.charge(t, need, 0)
          changed = true
        end
        if is_full then
          refuses, left = i, t.by.left(t, need)
          break
        end
      elseif is_full then
        local wait = t.by.left(t, need)
        if refuses == 0 or wait > left then
          refuses, left = i, wait
        end
      end
    end
    -- Below that nothing was lent.
    if most > share and share > 2 and ARGV[9] ~= 'r' then
      say('short')
    end
  end
  if changed then
    write()
  end
end

-- PERF: as numbers; to make a text of each takes as long as all else.
local words = { given, cost, lent, valid, refuses, left, now }
for i, t in ipairs(tiers) do
  words[6 + 2 * i], words[7 + 2 * i] = t.by.room(t), t.by.reset(t)
end
return words
