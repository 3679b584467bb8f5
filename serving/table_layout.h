// What reader and writer of a table file (serving/table_file.h) agree upon.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "serving/table_file.h"

namespace savior {

inline constexpr const char* kTableFormat = "savior.table.1";
// Header length and header: one page, padded by spaces, as the format allows. Its data is then
// aligned, and the writer can leave room for it.
inline constexpr size_t kHeaderRoom = 4096;
inline constexpr size_t kIndexed = 64;     // keys per entry of the index
inline constexpr size_t kMaxColumns = 16;  // whose names and sizes fit the header
inline constexpr uint32_t kMaxWidth = 1 << 16;

inline bool IsReserved(std::string_view name) {
  return name == "key" || name == "index" || name == "gone" || name == "pad";
}

const char* NameOf(ColumnType type);

// "row,scale" -> {"row", "scale"}
inline std::vector<std::string> SplitNames(const std::string& names) {
  std::vector<std::string> split;
  size_t begin = 0;
  while (begin < names.size()) {
    const size_t end = std::min(names.find(',', begin), names.size());
    split.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  return split;
}

}  // namespace savior
