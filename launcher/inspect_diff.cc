// What changed from one commit to another: both tables are walked in the order of their keys at
// once, so any number of rows takes the memory of a few slices.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "launcher/inspect.h"
#include "launcher/inspected_commit.h"

namespace savior {
namespace {

using Json = nlohmann::ordered_json;

struct TableDiff {
  std::string table;
  uint64_t added = 0, removed = 0, changed = 0, same = 0;
};

// Bit by bit: another zero is a change, a NaN that stayed is none.
bool SameFloats(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

bool SameRow(const StoredRow& a, const StoredRow& b) {
  return a.updates == b.updates && a.last_step == b.last_step && SameFloats(a.weights, b.weights) &&
         SameFloats(a.state, b.state);
}

// The rows of one side; at its end, or without such a table, there is none.
class Side {
 public:
  absl::Status Open(InspectedCommit* commit, const std::string& table) {
    const std::vector<TableSpec>& tables = commit->commit().manifest.tables;
    const auto found = std::ranges::find(tables, table, &TableSpec::name);
    if (found == tables.end()) return absl::OkStatus();
    const auto number = static_cast<uint32_t>(found - tables.begin());
    SAVIOR_ASSIGN_OR_RETURN(cursor_, commit->store().Rows(number, InspectDeadline()));
    return Next();
  }
  absl::Status Next() {
    SAVIOR_ASSIGN_OR_RETURN(has_row_, cursor_->Next());
    return absl::OkStatus();
  }
  bool has_row() const { return has_row_; }
  StoredRow row() const { return cursor_->row(); }

 private:
  std::unique_ptr<RowCursor> cursor_;
  bool has_row_ = false;
};

absl::StatusOr<TableDiff> DiffOf(InspectedCommit* earlier, InspectedCommit* later,
                                 const std::string& table) {
  TableDiff diff{.table = table};
  Side a, b;
  SAVIOR_RETURN_IF_ERROR(a.Open(earlier, table));
  SAVIOR_RETURN_IF_ERROR(b.Open(later, table));
  while (a.has_row() || b.has_row()) {
    const bool in_a = a.has_row() && (!b.has_row() || a.row().key <= b.row().key);
    const bool in_b = b.has_row() && (!a.has_row() || b.row().key <= a.row().key);
    uint64_t& count = !in_b                       ? diff.removed
                      : !in_a                     ? diff.added
                      : SameRow(a.row(), b.row()) ? diff.same
                                                  : diff.changed;
    ++count;
    if (in_a) SAVIOR_RETURN_IF_ERROR(a.Next());
    if (in_b) SAVIOR_RETURN_IF_ERROR(b.Next());
  }
  return diff;
}

// Of both, the earlier one's first.
std::vector<std::string> TablesOf(const Commit& earlier, const Commit& later) {
  std::vector<std::string> names;
  for (const Commit* commit : {&earlier, &later}) {
    for (const TableSpec& table : commit->manifest.tables) {
      if (std::ranges::find(names, table.name) == names.end()) names.push_back(table.name);
    }
  }
  return names;
}

void PrintJson(const Commit& earlier, const Commit& later, const std::vector<TableDiff>& diffs,
               std::ostream& out) {
  const auto side = [](const Commit& commit) {
    return Json{{"commit", commit.folder.string()},
                {"step", commit.manifest.step},
                {"codebook_version", commit.manifest.codebook.version}};
  };
  Json json = {{"from", side(earlier)}, {"to", side(later)}, {"tables", Json::object()}};
  for (const TableDiff& d : diffs) {
    json["tables"][d.table] = {
        {"added", d.added}, {"removed", d.removed}, {"changed", d.changed}, {"same", d.same}};
  }
  out << json.dump(2) << "\n";
}

void PrintText(const Commit& earlier, const Commit& later, const std::vector<TableDiff>& diffs,
               std::ostream& out) {
  const auto side = [&out](const char* which, const Commit& commit) {
    out << fmt::format("{} {}, step {}, codebook version {}\n", which, commit.folder.string(),
                       commit.manifest.step, commit.manifest.codebook.version);
  };
  side("from", earlier);
  side("to  ", later);
  out << "\n";
  const auto line = [&out](const auto&... columns) {
    out << fmt::format("{:<16} {:>12} {:>12} {:>12} {:>12}\n", columns...);
  };
  line("table", "added", "removed", "changed", "same");
  TableDiff all;
  for (const TableDiff& d : diffs) {
    line(d.table, d.added, d.removed, d.changed, d.same);
    all.added += d.added;
    all.removed += d.removed;
    all.changed += d.changed;
    all.same += d.same;
  }
  line("all", all.added, all.removed, all.changed, all.same);
}

}  // namespace

absl::Status InspectDiff(const InspectArguments& arguments, std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const auto earlier, InspectedCommit::Open(arguments.path));
  SAVIOR_ASSIGN_OR_RETURN(const auto later, InspectedCommit::Open(arguments.other));
  std::vector<TableDiff> diffs;
  for (const std::string& table : TablesOf(earlier->commit(), later->commit())) {
    SAVIOR_ASSIGN_OR_RETURN(diffs.emplace_back(), DiffOf(earlier.get(), later.get(), table));
  }
  (arguments.json ? PrintJson : PrintText)(earlier->commit(), later->commit(), diffs, out);
  return absl::OkStatus();
}

}  // namespace savior
