-- Until when the upstream of some requests is left alone; all instances are told of each change.
--
-- KEYS  1 end of this cool-down (ms of Redis time) and the status that began it: "<end> <status>"
--       2 ends of all cool-downs: sorted set of names
-- ARGV  1 channel  2 command that publishes  3 beginning of the message
--       4 'set'  5 name  6 ms left  7 status    what an answer asked for; a longer one stays
--         'end'  5 name                         an operator's word: it is over
--         'all'                                 what there is
-- Returns {} ; 'all': {name, ms left, status, ...}, at most 512 of them.
-- Invariant: an end only moves later, but for 'end'.
-- Cost: O(log cool-downs); 'all' O(cool-downs), once for each connection of an instance.

return {}
