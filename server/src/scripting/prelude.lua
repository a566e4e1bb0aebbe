-- What scripts see: Redis' functions, and Lua's own without those that reach beyond the script. The tables of functions
-- are shared by all scripts of a worker, so that nobody may write into them; what a script sees is a shadow that reads.
-- Gives the scripts' environment, the function that runs one of them, and the table that lacks `call` and `pcall`.
local host, lua = ...

local error, ipairs, pairs, rawget, rawset, setfenv, setmetatable, tostring, type =
    error, ipairs, pairs, rawget, rawset, setfenv, setmetatable, tostring, type
local loadstring, pcall, xpcall, table_insert, string_byte, string_match, concat, floor, select =
    loadstring, pcall, xpcall, table.insert, string.byte, string.match, table.concat, math.floor, select

local shadows = {}

local function readonly()
    error("Attempt to modify a readonly table", 2)
end

local function shadow(of)
    local out = setmetatable({}, { __index = of, __newindex = readonly, __metatable = false })
    shadows[out] = true
    return out
end

local globals = {}
setmetatable(globals, {
    __index = function(_, name)
        error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
    end,
})
local env = shadow(globals)

for _, name in ipairs({
    "assert", "error", "getmetatable", "ipairs", "next", "pairs", "rawequal", "rawget", "select", "setmetatable", "tonumber",
    "tostring", "type", "unpack", "_VERSION",
}) do
    globals[name] = lua[name]
end
globals._G = env

-- A script that is stopped must not catch that and go on.
local function unless_stopped(...)
    if host.stopped() then
        error("stopped", 0)
    end
    return ...
end

-- A call that fails raises no plain value: what that stands for lies at the host.
local function raised(err)
    if type(err) ~= "userdata" then
        return err
    end
    local meant = host.raised
    host.raised = nil
    return meant or (string_match(tostring(err), "^[^\n]*"))
end

-- Whoever catches an error of Redis gets its text.
local function caught(good, err, ...)
    if host.stopped() then
        error("stopped", 0)
    elseif good then
        return good, err, ...
    end
    err = raised(err)
    if type(err) == "table" and type(rawget(err, "err")) == "string" then
        err = err.err
    end
    return good, err
end

function globals.pcall(...)
    return caught(pcall(...))
end

function globals.xpcall(f, handle)
    return unless_stopped(xpcall(f, function(err)
        return handle(raised(err))
    end))
end

function globals.rawset(t, key, value)
    if shadows[t] then
        error("Attempt to modify a readonly table", 2)
    end
    return rawset(t, key, value)
end

function globals.collectgarbage(option)
    return option == "count" and host.memory() or 0
end

-- Compiled code would not be checked: only text is loaded.
function globals.loadstring(text, name)
    if type(text) == "string" and string_byte(text, 1) == 27 then
        return nil, "attempt to load a chunk of compiled code"
    end
    local chunk, why = loadstring(text, name)
    if chunk then
        setfenv(chunk, env)
    end
    return chunk, why
end

function globals.load(read, name)
    local parts = {}
    while true do
        local part = read()
        if part == nil or part == "" then
            return globals.loadstring(concat(parts), name or "=(load)")
        end
        parts[#parts + 1] = part
    end
end

local function copy(of)
    local out = {}
    for key, value in pairs(of) do
        out[key] = value
    end
    return out
end

local math = copy(lua.math)

function math.random(low, high)
    local chance = host.random()
    if low == nil then
        return chance
    end
    if high == nil then
        low, high = 1, low
    end
    low, high = floor(low), floor(high)
    if low > high then
        error("bad argument #1 to 'random' (interval is empty)", 2)
    end
    return low + floor(chance * (high - low + 1))
end

function math.randomseed(seed)
    host.seed(floor(seed))
end

local table = copy(lua.table)

function table.insert(t, ...)
    if shadows[t] then
        error("Attempt to modify a readonly table", 2)
    end
    return table_insert(t, ...)
end

local redis = {
    LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
    REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
    REDIS_VERSION = "7.0.15", REDIS_VERSION_NUM = 0x0007000f,
}

local function fail(text)
    error({ err = "ERR " .. text }, 0)
end

function redis.error_reply(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then
        return { err = "ERR wrong number or type of arguments" }
    end
    return { err = host.error_text(text) }
end

function redis.status_reply(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then
        return { err = "ERR wrong number or type of arguments" }
    end
    return { ok = text }
end

function redis.sha1hex(...)
    if select("#", ...) ~= 1 then
        fail("wrong number of arguments")
    end
    local text = ...
    return host.sha1hex(type(text) == "number" and tostring(text) or text)
end

function redis.log(...)
    local level = ...
    if select("#", ...) < 2 then
        fail("redis.log() requires two arguments or more.")
    elseif type(level) ~= "number" then
        fail("First argument must be a number (log level).")
    elseif level < 0 or level > 3 then
        fail("Invalid debug level.")
    end
    local parts = {}
    for at = 2, select("#", ...) do
        local part = select(at, ...)
        if type(part) == "string" or type(part) == "number" then
            parts[#parts + 1] = part
        end
    end
    host.log(level, concat(parts, " "))
end

function redis.setresp(...)
    local version = ...
    if select("#", ...) ~= 1 then
        fail("redis.setresp() requires one argument.")
    elseif version ~= 2 and version ~= 3 then
        fail("RESP version must be 2 or 3.")
    end
    host.setresp(version)
end

-- All effects of a script are kept and shipped together here, whatever it asks for.
function redis.set_repl(...)
    local flags = ...
    if select("#", ...) ~= 1 then
        fail("redis.set_repl() requires two arguments.")
    elseif type(flags) ~= "number" or flags < 0 or flags > 3 then
        fail("Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.")
    end
end

function redis.replicate_commands()
    return true
end

function redis.acl_check_cmd(...)
    if select("#", ...) == 0 then
        fail("Please specify at least one argument for this redis.acl_check_cmd() call")
    end
    for at = 1, select("#", ...) do
        local kind = type((select(at, ...)))
        if kind ~= "string" and kind ~= "number" then
            fail("Lua redis lib command arguments must be strings or integers")
        end
    end
    if not host.known(...) then
        fail("Invalid command passed to redis.acl_check_cmd()")
    end
    return true
end

function redis.breakpoint()
    return false
end

function redis.debug() end

globals.redis = shadow(redis)
globals.math = shadow(math)
globals.table = shadow(table)
globals.string = shadow(lua.string)
globals.bit = shadow(host.bit)
globals.cjson = shadow(host.cjson)
globals.cmsgpack = shadow(host.cmsgpack)
globals.struct = shadow(host.struct)

local strings = lua.getmetatable("")
strings.__index = globals.string
strings.__metatable = false

-- Says where in the script an error was raised.
local function handler(err)
    if host.stopped() then
        return err
    end
    err = raised(err)
    if type(err) ~= "table" then
        err = { err = "ERR " .. tostring(err) }
    end
    local source, line = host.line()
    if line then
        rawset(err, "source", source)
        rawset(err, "line", line)
    end
    return err
end

local function run(script, keys, args)
    rawset(globals, "KEYS", keys)
    rawset(globals, "ARGV", args)
    return xpcall(script, handler)
end

-- Calls a library's function, which gets its keys and arguments as such.
local function call(callback, keys, args)
    rawset(globals, "KEYS", nil)
    rawset(globals, "ARGV", nil)
    return xpcall(function()
        return callback(keys, args)
    end, handler)
end

-- The arguments of redis.register_function: names, or one table.
local function registration(...)
    local count = select("#", ...)
    if count < 1 or count > 2 then
        fail("wrong number of arguments to redis.register_function")
    end
    local first, callback = ...
    if count == 2 then
        return { function_name = first, callback = callback }
    elseif type(first) ~= "table" then
        fail("calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).")
    end
    for key in pairs(first) do
        if key ~= "function_name" and key ~= "callback" and key ~= "flags" and key ~= "description" then
            fail("unknown argument given to redis.register_function")
        end
    end
    return first
end

-- Runs a library's text; the functions that it registers.
local function load_library(chunk)
    local out, taken = {}, {}
    rawset(globals, "KEYS", nil)
    rawset(globals, "ARGV", nil)
    local pcall = rawget(redis, "pcall")
    rawset(redis, "call", nil)
    rawset(redis, "pcall", nil)
    rawset(redis, "register_function", function(...)
        local given = registration(...)
        if type(given.function_name) ~= "string" then
            fail("function_name argument given to redis.register_function must be a string")
        elseif type(given.callback) ~= "function" then
            fail("callback argument given to redis.register_function must be a function")
        elseif taken[given.function_name] then
            fail("Function already exists in the library")
        end
        local flags = {}
        for _, flag in ipairs(given.flags or {}) do
            if flag ~= "no-writes" and flag ~= "allow-oom" and flag ~= "allow-stale" and flag ~= "no-cluster"
                and flag ~= "allow-cross-slot-keys" then
                fail("unknown flag given")
            end
            flags[#flags + 1] = flag
        end
        taken[given.function_name] = true
        out[#out + 1] = {
            name = given.function_name, callback = given.callback, description = given.description, flags = flags,
        }
    end)
    local good, err = xpcall(chunk, handler)
    rawset(redis, "register_function", nil)
    rawset(redis, "pcall", pcall)
    return good, good and out or err
end

return env, run, redis, call, load_library
