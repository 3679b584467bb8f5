// How one shard's RAM is divided over its tables: by use.
//
// Shards get equal parts of the server's budget, since hashing spreads keys and traffic evenly over
// them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace savior {

struct TableDemand {
  uint64_t least = 0;  // bytes that the table takes in any case
  uint64_t want = 0;   // bytes that all of the table's rows need
  uint64_t use = 0;    // bytes of rows asked for lately
};

// Bytes for each table, [t]. Their sum is <= `budget`, unless the least parts alone are more. Each
// table gets its least; the rest is shared by use, where a table that needs less than its share
// gets what it needs and leaves the others more; what nobody needs is dealt out evenly, as room to
// grow. Pure.
std::vector<uint64_t> DivideBudget(uint64_t budget, std::span<const TableDemand> demands);

// The limits after one step from `limits` [t] towards `goals` [t], of tables that hold `held` [t]
// bytes. A table that must give way does so by a sixteenth at a time, since its dirty rows have to
// be written; the others get what is really free, in proportion. So the sum of what is held and
// what may be filled stays within that of the goals and limits, and no request waits for a large
// table to shrink. Changes below 1/64 are left out. Pure.
std::vector<uint64_t> Approach(std::span<const uint64_t> limits, std::span<const uint64_t> held,
                               std::span<const uint64_t> goals);

}  // namespace savior
