-- What scripts find in a sandbox, and how one is run. Nothing that a script can reach outlives it: its globals are behind
-- tables that cannot be written, and functions that could get around that are replaced or left out.

local rust = ...
local error, pcall, xpcall, type, tostring, tonumber, next, select, unpack, loadstring =
    error, pcall, xpcall, type, tostring, tonumber, next, select, unpack, loadstring
local rawset, setmetatable, getmetatable = rawset, setmetatable, getmetatable
local byte, sub, floor = string.byte, string.sub, math.floor
local concat, create, resume, yield, status = table.concat, coroutine.create, coroutine.resume, coroutine.yield, coroutine.status

local READONLY = 'Attempt to modify a readonly table'
local globals = {}
local frozen = {}
local in_coroutine = false

local function freeze(proxy, content)
    frozen[proxy] = true
    return setmetatable(proxy, {
        __index = content,
        __newindex = function() error(READONLY, 2) end,
        __metatable = false,
    })
end

-- What redis.call raises is a table to scripts.
local function seen(problem)
    return type(problem) == 'userdata' and rust.seen(problem) or problem
end

-- An error that ends a script is not caught by it.
local function caught(ok, ...)
    if ok then return ok, ... end
    if rust.is_over() then error((...), 0) end
    return ok, seen((...))
end

-- rust.expand returns what went wrong; where it was called from is added here.
local function checked(problem, ...)
    if problem then error(problem, 3) end
    return ...
end

for _, name in ipairs { '_VERSION', 'assert', 'error', 'getmetatable', 'ipairs', 'next', 'pairs', 'rawequal', 'rawget',
    'select', 'tonumber', 'tostring', 'type', 'unpack' } do
    globals[name] = _G[name]
end

-- As in Redis an error that is a table is its text here.
local function told(ok, ...)
    local problem = ...
    if not ok and type(problem) == 'table' and type(problem.err) == 'string' then return ok, problem.err end
    return ok, ...
end

function globals.pcall(...) return told(caught(pcall(...))) end

-- Lua calls a handler where the error was raised, with its hook turned off: it could not be ended there.
function globals.xpcall(body, handler)
    local function handled(ok, ...)
        if ok then return ok, ... end
        return ok, handler((...))
    end
    return handled(caught(pcall(body)))
end

function globals.rawset(t, key, value)
    if frozen[t] then error(READONLY, 2) end
    return rawset(t, key, value)
end

function globals.setmetatable(t, metatable)
    if frozen[t] then error(READONLY, 2) end
    return setmetatable(t, metatable)
end

function globals.loadstring(text, name)
    if type(text) == 'string' and byte(text) == 27 then return nil, 'attempt to load a binary chunk' end
    return loadstring(text, name)
end

function globals.load(read, name)
    local pieces = {}
    for piece in read do
        if piece == '' then break end
        pieces[#pieces + 1] = piece
    end
    return globals.loadstring(concat(pieces), name or '=(load)')
end

-- Memory is bounded without it, and a script that asks for it all the time would hold up others.
function globals.collectgarbage(what)
    return what == 'count' and rust.used_kib() or 0
end

globals.gcinfo = rust.used_kib

-- Lua's own functions with patterns cannot be interrupted.

local text = {}
for _, name in ipairs { 'byte', 'char', 'format', 'len', 'lower', 'rep', 'reverse', 'sub', 'upper' } do
    text[name] = string[name]
end

local function subject_of(s, name, place)
    if type(s) == 'string' then return s end
    if type(s) == 'number' then return tostring(s) end
    error(("bad argument #%d to '%s' (string expected, got %s)"):format(place, name, s == nil and 'no value' or type(s)), 3)
end

text.find, text.match = rust.find, rust.match

function text.gmatch(s, pattern)
    s, pattern = subject_of(s, 'gmatch', 1), subject_of(pattern, 'gmatch', 2)
    if byte(pattern) == 94 then pattern = '%' .. pattern end
    local at = 1
    local function step(problem, start, stop, ...)
        if problem then error(problem, 3) end
        if not start then return nil end
        at = stop < start and stop + 2 or stop + 1
        if select('#', ...) == 0 then return sub(s, start, stop) end
        return ...
    end
    return function()
        if at > #s + 1 then return nil end
        return step(rust.next(s, pattern, at))
    end
end

local function replaced(whole, by, kind, template, ...)
    local first = ...
    if first == nil then first = whole end
    local value
    if kind == 'string' then
        return checked(rust.expand(template, whole, ...))
    elseif kind == 'table' then
        value = by[first]
    elseif select('#', ...) == 0 then
        value = by(whole)
    else
        value = by(...)
    end
    if not value then return whole end
    if type(value) ~= 'string' and type(value) ~= 'number' then
        error(('invalid replacement value (a %s)'):format(type(value)), 3)
    end
    return tostring(value)
end

function text.gsub(s, pattern, by, most)
    s, pattern = subject_of(s, 'gsub', 1), subject_of(pattern, 'gsub', 2)
    local kind = type(by)
    if kind == 'number' then by, kind = tostring(by), 'string' end
    if kind ~= 'string' and kind ~= 'table' and kind ~= 'function' then
        error("bad argument #3 to 'gsub' (string/function/table expected)", 2)
    end
    local anchored = byte(pattern) == 94
    local pieces, count, at = {}, 0, 1
    most = tonumber(most) or #s + 1
    local function step(problem, start, stop, ...)
        if problem then error(problem, 3) end
        if not start then return false end
        pieces[#pieces + 1] = sub(s, at, start - 1)
        pieces[#pieces + 1] = replaced(sub(s, start, stop), by, kind, by, ...)
        count = count + 1
        at = stop + 1
        if stop < start then
            pieces[#pieces + 1] = sub(s, at, at)
            at = at + 1
        end
        return at <= #s + 1 and not anchored
    end
    while count < most and step(rust.next(s, pattern, at)) do end
    pieces[#pieces + 1] = sub(s, at)
    return concat(pieces), count
end

getmetatable('').__index = text
getmetatable('').__metatable = false
globals.string = freeze({}, text)

-- Lua's own cannot be interrupted either.
local function sort(t, precedes)
    precedes = precedes or function(a, b) return a < b end
    local function sift(root, last)
        while 2 * root <= last do
            local child = 2 * root
            if child < last and precedes(t[child], t[child + 1]) then child = child + 1 end
            if not precedes(t[root], t[child]) then return end
            t[root], t[child] = t[child], t[root]
            root = child
        end
    end
    local n = #t
    for root = floor(n / 2), 1, -1 do sift(root, n) end
    for last = n, 2, -1 do
        t[1], t[last] = t[last], t[1]
        sift(1, last - 1)
    end
end

local function only(library, names, more)
    local copy = more or {}
    for _, name in ipairs(names) do copy[name] = library[name] end
    return freeze({}, copy)
end

local insert, remove = table.insert, table.remove
globals.table = only(table, { 'concat', 'foreach', 'foreachi', 'getn', 'maxn' }, {
    insert = function(t, ...)
        if frozen[t] then error(READONLY, 2) end
        return insert(t, ...)
    end,
    remove = function(t, ...)
        if frozen[t] then error(READONLY, 2) end
        return remove(t, ...)
    end,
    sort = sort,
})
globals.math = only(math, { 'abs', 'acos', 'asin', 'atan', 'atan2', 'ceil', 'cos', 'cosh', 'deg', 'exp', 'floor', 'fmod',
    'frexp', 'huge', 'ldexp', 'log', 'log10', 'max', 'min', 'mod', 'modf', 'pi', 'pow', 'rad', 'sin', 'sinh', 'sqrt', 'tan',
    'tanh' }, {
    random = function(low, high)
        local number = rust.random()
        if not low then return number end
        if not high then low, high = 1, low end
        if low > high then error('bad argument to \'random\' (interval is empty)', 2) end
        return floor(number * (high - low + 1)) + low
    end,
    randomseed = function(seed) rust.seed(tonumber(seed) or 0) end,
})

-- Each coroutine has a part of the thread's stack for itself: one may not begin another.
local function left(...)
    in_coroutine = false
    return caught(...)
end

local function enter(thread, ...)
    if in_coroutine then error('a coroutine cannot resume another one', 3) end
    in_coroutine = true
    return left(resume(thread, ...))
end

local function values(ok, ...)
    if not ok then error((...), 0) end
    return ...
end

globals.coroutine = freeze({}, {
    create = create,
    resume = enter,
    status = status,
    yield = yield,
    wrap = function(body)
        local thread = create(body)
        return function(...) return values(enter(thread, ...)) end
    end,
})

local bit = {}
for name, operation in next, rust.bit do
    bit[name] = function(...)
        for place = 1, select('#', ...) do
            if not tonumber((select(place, ...))) then
                error(("bad argument #%d to '%s' (number expected, got %s)"):format(place, name, type((select(place, ...)))), 2)
            end
        end
        if select('#', ...) == 0 then
            error(("bad argument #1 to '%s' (number expected, got no value)"):format(name), 2)
        end
        return operation(...)
    end
end
globals.bit = freeze({}, bit)

globals.cjson = freeze({}, { null = rust.null, encode = rust.encode, decode = rust.decode })

-- redis.

local function one_string(field, ...)
    local value = ...
    if select('#', ...) ~= 1 or type(value) ~= 'string' then return { err = 'ERR wrong number or type of arguments' } end
    if field == 'err' and byte(value) == 45 then value = sub(value, 2) end
    return { [field] = value }
end

local redis = {
    LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
    REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
    call = rust.call,
    REDIS_VERSION = rust.version,
    REDIS_VERSION_NUM = rust.version_number,
    error_reply = function(...) return one_string('err', ...) end,
    status_reply = function(...) return one_string('ok', ...) end,
    sha1hex = function(...)
        if select('#', ...) ~= 1 then error('wrong number of arguments', 0) end
        return rust.sha1hex(tostring((...)))
    end,
    log = function(level, ...)
        if select('#', ...) == 0 then error('redis.log() requires two arguments or more.', 0) end
        if type(level) ~= 'number' then error('First argument must be a number (log level).', 0) end
        if level < 0 or level > 3 then error('Invalid debug level.', 0) end
        local words = { ... }
        for place = 1, select('#', ...) do words[place] = tostring(words[place]) end
        rust.log(level, concat(words, ' '))
    end,
    setresp = function(...)
        local version = ...
        if select('#', ...) ~= 1 then error('redis.setresp() requires one argument.', 0) end
        if version ~= 2 and version ~= 3 then error('RESP version must be 2 or 3.', 0) end
        rust.setresp(version)
    end,
    -- Records are effects in any case.
    replicate_commands = function() return true end,
    set_repl = function() end,
    breakpoint = function() return false end,
    debug = function() end,
}
globals.redis = freeze({}, redis)
globals.server = globals.redis

-- Every function sees the table of globals of its state, which is empty and cannot be written.
local visible = _G
globals._G = visible
for name in next, visible do visible[name] = nil end
setmetatable(globals, {
    __index = function(_, name)
        error(("Script attempted to access nonexistent global variable '%s'"):format(tostring(name)), 2)
    end,
})
freeze(visible, globals)

local function described(problem)
    problem = seen(problem)
    if type(problem) ~= 'table' then problem = { err = 'ERR ' .. tostring(problem) } end
    local line = rust.line()
    if line then problem.source, problem.line = '@user_script', line end
    return problem
end

local function answered(ok, value)
    return value
end

function redis.pcall(...)
    return answered(caught(pcall(redis.call, ...)))
end

-- Runs a script: whether it came to its end, and what it returned or why not.
return function(script, keys, arguments)
    in_coroutine = false
    globals.KEYS, globals.ARGV = keys, arguments
    local ok, value = xpcall(script, described)
    globals.KEYS, globals.ARGV = nil, nil
    return ok, value
end
