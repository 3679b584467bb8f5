#include "launcher/metrics_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "launcher/json_lines.h"
#include "serving/json_cursor.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// The step of a line without the rest of it: it comes first. nullopt: none, so it is damaged.
std::optional<int64_t> StepOf(std::string_view line) {
  JsonCursor at(line);
  std::string_view key;
  JsonNumber number;
  if (!at.EnterObject() || !at.NextKey(&key) || key != "step" || !at.Number(&number) ||
      !number.is_unsigned || number.whole > static_cast<uint64_t>(INT64_MAX)) {
    return std::nullopt;
  }
  return static_cast<int64_t>(number.whole);
}

// The next line that ends. False: there is none.
bool NextLine(std::ifstream* file, std::string* line) {
  // At the end of the file without a newline: a torn line, or one that is being written.
  return static_cast<bool>(std::getline(*file, *line)) && !file->eof();
}

}  // namespace

// Takes the numbers out of one line.
class MetricsFile::LineReader {
 public:
  LineReader(MetricsFile* file, std::vector<MetricsValue>* values)
      : file_(*file), values_(*values) {}

  // False: it is no JSON object.
  bool Read(std::string_view line) {
    values_.clear();
    path_.clear();
    JsonCursor at(line);
    return at.kind() == JsonCursor::Kind::kObject && Value(&at) && at.AtEnd();
  }

 private:
  // NOLINTNEXTLINE(misc-no-recursion): as deep as the cursor goes, which is bounded.
  bool Value(JsonCursor* at) {
    std::string_view text;
    JsonNumber number;
    const size_t parent = path_.size();
    if (at->EnterObject()) {
      while (at->NextKey(&text)) {
        if (parent > 0) path_ += '.';
        path_ += text;
        if (!Value(at)) return false;
        path_.resize(parent);
      }
      return !at->bad();
    }
    if (at->EnterList()) {
      for (size_t i = 0; at->NextElement(); ++i) {
        path_ += '.';
        path_ += std::to_string(i);
        if (!Value(at)) return false;
        path_.resize(parent);
      }
      return !at->bad();
    }
    if (at->Number(&number)) {
      values_.push_back({file_.NumberOf(path_, values_.size()), number.value});
      return true;
    }
    return at->String(&text) || at->Literal(&text);
  }

  MetricsFile& file_;
  std::vector<MetricsValue>& values_;
  std::string path_;
};

absl::StatusOr<MetricsFile> MetricsFile::Open(const fs::path& path) {
  MetricsFile file;
  file.path_ = path;
  SAVIOR_RETURN_IF_ERROR(file.Scan());
  return file;
}

absl::Status MetricsFile::Scan() {
  std::ifstream file(path_, std::ios::binary);
  std::error_code error;
  if (!file) {
    if (!fs::exists(path_, error) && !error) return absl::OkStatus();
    return absl::UnavailableError(path_.string() + ": cannot be read");
  }
  std::string line;
  while (NextLine(&file, &line)) {
    ++lines_;
    const std::optional<int64_t> step = StepOf(line);
    if (!step) return DamagedLine(path_, lines_);
    if (lines_ > 1 && *step <= last_step_) restarts_.push_back({lines_, *step});
    first_step_ = lines_ == 1 ? *step : std::min(first_step_, *step);
    last_step_ = *step;
  }
  int64_t least = std::numeric_limits<int64_t>::max();
  for (auto restart = restarts_.rbegin(); restart != restarts_.rend(); ++restart) {
    least = restart->least = std::min(least, restart->step);
  }
  return absl::OkStatus();
}

absl::Status MetricsFile::ForEach(const std::function<absl::Status(const MetricsLine&)>& each) {
  std::ifstream file(path_, std::ios::binary);
  std::vector<MetricsValue> values;
  LineReader reader(this, &values);
  std::string line;
  auto next = restarts_.begin();
  for (int64_t n = 1; n <= lines_; ++n) {
    const std::optional<int64_t> step =
        NextLine(&file, &line) ? StepOf(line) : std::optional<int64_t>();
    if (!step || !reader.Read(line)) return DamagedLine(path_, n);
    latest_.clear();
    for (const MetricsValue& value : values) latest_.push_back(value.name);
    while (next != restarts_.end() && next->line <= n) ++next;
    const bool superseded = next != restarts_.end() && *step >= next->least;
    SAVIOR_RETURN_IF_ERROR(each({*step, superseded, values}));
  }
  return absl::OkStatus();
}

size_t MetricsFile::NumberOf(std::string_view name, size_t hint) {
  if (hint < latest_.size() && names_[latest_[hint]] == name) return latest_[hint];
  const auto [found, fresh] = numbers_.try_emplace(std::string(name), names_.size());
  if (fresh) names_.emplace_back(name);
  return found->second;
}

}  // namespace savior
