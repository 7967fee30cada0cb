-- One decision of one rate limit. The same arithmetic as portcullis-limit's gcra.rs and sliding_window.rs: change together.
--
-- Numbers here are doubles, which hold whole numbers exactly up to 2^53. Nanoseconds since 1970 are more than that, so
-- moments and spans are pairs: whole seconds, and nanoseconds below one thousand million.
--
-- The time is this server's own: one clock for all who count together, and none of them can gain by a wrong one. A caller
-- may give another, to replay recorded requests.

local SECOND = 1000000000
local WHOLE = 65536

-- Milliseconds for which a key is kept after it has become worthless: one that is asked for again is not made anew.
local kept = 2000

local key = KEYS[1]
local algorithm = ARGV[1]

local function number(index)
  return tonumber(ARGV[index])
end

local now_s, now_n
if ARGV[6] then
  now_s, now_n = number(6), number(7)
  -- The times that are replayed may pass slower than this server's.
  kept = 3600000
else
  local time = redis.call('TIME')
  now_s, now_n = tonumber(time[1]), tonumber(time[2]) * 1000
end

local function carry(s, n)
  if n >= SECOND then
    return s + 1, n - SECOND
  end
  return s, n
end

local function above(a_s, a_n, b_s, b_n)
  return a_s > b_s or (a_s == b_s and a_n > b_n)
end

local function keep(text, millis)
  redis.call('SET', key, text, 'PX', string.format('%.0f', millis + kept))
end

-- KEYS: the bucket. ARGV: 'bucket', the increment, the capacity. Gives: allowed, and how far the TAT is ahead of now.
local function bucket()
  local increment_s, increment_n, capacity_s, capacity_n = number(2), number(3), number(4), number(5)
  local ahead_s, ahead_n = 0, 0
  local tat_s, tat_n = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  if tat_s then
    local s, n = tonumber(tat_s) - now_s, tonumber(tat_n) - now_n
    if n < 0 then
      s, n = s - 1, n + SECOND
    end
    if s >= 0 then
      ahead_s, ahead_n = s, n
    end
    if above(ahead_s, ahead_n, capacity_s, capacity_n) then
      ahead_s, ahead_n = capacity_s, capacity_n
    end
  end
  local wanted_s, wanted_n = carry(ahead_s + increment_s, ahead_n + increment_n)
  if above(wanted_s, wanted_n, capacity_s, capacity_n) then
    return {0, ahead_s, ahead_n, 0}
  end
  tat_s, tat_n = carry(now_s + wanted_s, now_n + wanted_n)
  keep(string.format('%.0f %.0f', tat_s, tat_n), wanted_s * 1000 + math.ceil(wanted_n / 1000000))
  return {1, wanted_s, wanted_n, 0}
end

-- KEYS: the counters. ARGV: 'window', its length in microseconds, the limit, the cost, a zero. Gives: allowed, this window's
-- count, the count of the one before, and the microseconds of this window that are over.
local function window()
  local length, limit, cost = number(2), number(3), number(4)
  local micros = now_s * 1000000 + math.floor(now_n / 1000)
  local index = math.floor(micros / length)
  local elapsed = micros - index * length
  local current, previous = 0, 0
  local old_index, old_current, old_previous = string.match(redis.call('GET', key) or '', '^(%d+) (%d+) (%d+)$')
  if old_index then
    local behind = index - tonumber(old_index)
    if behind == 1 then
      previous = tonumber(old_current)
    elseif behind <= 0 then
      current, previous = tonumber(old_current), tonumber(old_previous)
      if behind < 0 then
        index, elapsed = tonumber(old_index), 0
      end
    end
  end
  local share = math.ceil((length - elapsed) * WHOLE / length)
  local used = current + math.ceil(previous * share / WHOLE)
  if used + cost > limit then
    return {0, current, previous, elapsed}
  end
  current = current + cost
  keep(string.format('%.0f %.0f %.0f', index, current, previous), math.ceil((2 * length - elapsed) / 1000))
  return {1, current, previous, elapsed}
end

if algorithm == 'bucket' then
  return bucket()
end
return window()
