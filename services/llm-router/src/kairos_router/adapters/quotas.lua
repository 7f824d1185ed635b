-- Grants units of quotas to one process: the needs of all claims, or of none. Time is the server's own.
-- KEYS: epoch, replicas, settling, then one counter per claim. ARGV[1]: {holder, epoch, fresh, replicas, returning, claims} as JSON.
local BUCKETS, ALIVE, SETTLES, PLACES = 30, 10000, 3000, 15000
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local asked = cjson.decode(ARGV[1])
local whole = function(number) return string.format('%.0f', number) end

-- The epoch is born with the first count. A process that knows another one must count anew first.
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = asked.fresh .. ':' .. whole(now)
  redis.call('SET', KEYS[1], epoch)
end
redis.call('ZADD', KEYS[2], whole(now), asked.holder)
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, whole(now - ALIVE))
local replicas = redis.call('ZCARD', KEYS[2])
if asked.epoch ~= '' and asked.epoch ~= epoch then
  redis.call('SET', KEYS[3], 1, 'PX', SETTLES)
  return cjson.encode({epoch = epoch, replicas = math.max(replicas, asked.replicas), now = now, lost = true})
end
-- While processes still tell what they have used alone, or had used before the counts were lost, all of them
-- together get what one would have alone.
local share = 1
if asked.returning then redis.call('SET', KEYS[3], 1, 'PX', SETTLES) end
if redis.call('EXISTS', KEYS[3]) == 1 then share = math.max(replicas, asked.replicas) end

-- HGETALL as numbers, without what has left the window at bucket `oldest`.
local function buckets_of(key, oldest)
  local flat, counts, sum = redis.call('HGETALL', key), {}, 0
  for at = 1, #flat, 2 do
    local bucket, count = tonumber(flat[at]), tonumber(flat[at + 1])
    if bucket < oldest then
      redis.call('HDEL', key, flat[at])
    else
      counts[bucket] = count
      sum = sum + count
    end
  end
  return counts, sum
end

local function window(key, claim)
  local width = claim.window / BUCKETS
  local bucket = math.floor(now / width)
  local oldest = bucket - BUCKETS - 1
  local counts, sum = buckets_of(key, oldest)
  for _, delta in ipairs(claim.deltas) do
    local at, before = delta[1], counts[delta[1]] or 0
    if at >= oldest then
      local after = math.max(0, before + delta[2])
      counts[at] = after
      sum = sum + after - before
      redis.call('HSET', key, whole(at), whole(after))
    end
  end
  local limit = math.max(1, math.floor(claim.limit / share))
  return {counts = counts, sum = sum, width = width, bucket = bucket, room = limit - sum, limit = limit}
end

-- When `needed` units will have left the window, in milliseconds; -1 when never.
local function until_free(seen, needed)
  local order = {}
  for bucket, count in pairs(seen.counts) do
    if count > 0 then order[#order + 1] = bucket end
  end
  table.sort(order)
  local freed = 0
  for _, bucket in ipairs(order) do
    freed = freed + seen.counts[bucket]
    if freed >= needed then return (bucket + BUCKETS + 2) * seen.width - now end
  end
  return -1
end

local function places(key, claim)
  local flat, others = redis.call('HGETALL', key), 0
  for at = 1, #flat, 2 do
    local held, expires = string.match(flat[at + 1], '^(%d+):(%d+)$')
    if tonumber(expires) <= now then
      redis.call('HDEL', key, flat[at])
    elseif flat[at] ~= asked.holder then
      others = others + tonumber(held)
    end
  end
  return {others = others, room = math.max(1, math.floor(claim.limit / share)) - others - claim.held}
end

local seen, refused = {}, false
for index, claim in ipairs(asked.claims) do
  local key = KEYS[index + 3]
  seen[index] = claim.window > 0 and window(key, claim) or places(key, claim)
  if claim.need > 0 and claim.need > seen[index].room then refused = true end
end

local shares = {}
for index, claim in ipairs(asked.claims) do
  local key, found = KEYS[index + 3], seen[index]
  local fair = math.floor((found.room - claim.need) / (2 * replicas))
  local give = 0
  if not refused then give = math.max(claim.need, math.min(claim.want, claim.need + fair)) end
  give = math.max(0, give)
  local retry = 0
  if claim.window > 0 then
    if give > 0 then redis.call('HINCRBY', key, whole(found.bucket), whole(give)) end
    redis.call('PEXPIRE', key, whole(claim.window + 3 * found.width))
    if refused and claim.need > found.room then
      retry = claim.need > found.limit and -1 or until_free(found, claim.need - found.room)
    end
    shares[index] = {give, found.bucket, (found.bucket + 2) * found.width - now,
      math.max(0, found.room - give), math.max(0, until_free(found, 1)), retry}
  else
    local held = claim.held + give
    if held > 0 then
      redis.call('HSET', key, asked.holder, whole(held) .. ':' .. whole(now + PLACES))
      redis.call('PEXPIRE', key, whole(2 * PLACES))
    else
      redis.call('HDEL', key, asked.holder)
    end
    if refused and claim.need > found.room then retry = 1000 end
    shares[index] = {held, 0, PLACES, math.max(0, found.room - give), 0, retry}
  end
end
return cjson.encode({epoch = epoch, replicas = replicas, now = now, refused = refused, shares = shares})
