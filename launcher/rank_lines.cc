#include "launcher/rank_lines.h"

#include <cctype>
#include <charconv>
#include <optional>

namespace savior {
namespace {

// A line that grows beyond this is handed out in parts: a rank that writes no newline must not eat
// the launcher's memory.
constexpr size_t kLongestLine = 64 << 10;
constexpr int kNobody = -1;

struct Tag {
  size_t begin = 0, end = 0;  // where it lies
  int rank = 0;
};

size_t SkipDigits(std::string_view text, size_t i) {
  while (i < text.size() && std::isdigit(static_cast<unsigned char>(text[i]))) ++i;
  return i;
}

// "[1,3]<stdout>:" at text[begin], which is a '['.
std::optional<Tag> TagAt(std::string_view text, size_t begin) {
  const size_t job_end = SkipDigits(text, begin + 1);
  if (job_end == begin + 1 || job_end >= text.size() || text[job_end] != ',') return {};
  const size_t rank_end = SkipDigits(text, job_end + 1);
  if (rank_end == job_end + 1 || !text.substr(rank_end).starts_with("]<std")) return {};
  for (const std::string_view stream : {"]<stdout>:", "]<stderr>:", "]<stddiag>:"}) {
    if (!text.substr(rank_end).starts_with(stream)) continue;
    Tag tag{.begin = begin, .end = rank_end + stream.size()};
    std::from_chars(text.data() + job_end + 1, text.data() + rank_end, tag.rank);
    return tag;
  }
  return {};
}

std::optional<Tag> NextTag(std::string_view text, size_t from) {
  for (size_t i = text.find('[', from); i != text.npos; i = text.find('[', i + 1)) {
    if (const auto tag = TagAt(text, i)) return tag;
  }
  return {};
}

}  // namespace

void RankLines::Add(std::string_view bytes) {
  for (size_t newline = bytes.find('\n'); newline != bytes.npos; newline = bytes.find('\n')) {
    pending_ += bytes.substr(0, newline);
    bytes.remove_prefix(newline + 1);
    TakeLine(pending_, /*ended=*/true);
    pending_.clear();
  }
  pending_ += bytes;
  if (pending_.size() < kLongestLine) return;
  TakeLine(pending_, /*ended=*/false);
  pending_.clear();
}

void RankLines::Finish() {
  if (!pending_.empty()) TakeLine(pending_, /*ended=*/true);
  pending_.clear();
  for (const auto& [rank, line] : open_) {
    if (!line.empty()) sink_(rank, line);
  }
  open_.clear();
}

void RankLines::TakeLine(std::string_view line, bool ended) {
  if (starter_ == Starter::kMpirun) return TakeTagged(line, ended);
  const size_t begin = line.find_first_not_of(' ');
  int rank = kNobody;
  if (begin != line.npos) {
    const size_t end = SkipDigits(line, begin);
    if (end > begin && line.substr(end).starts_with(": ")) {
      std::from_chars(line.data() + begin, line.data() + end, rank);
      line.remove_prefix(end + 2);
    }
  }
  sink_(rank, line);
}

// The newline at the end belongs to the piece that it ends; the others' lines stay open.
void RankLines::TakeTagged(std::string_view line, bool ended) {
  int rank = kNobody;
  size_t at = 0;
  std::optional<Tag> tag = NextTag(line, 0);
  while (tag) {
    if (tag->begin > at) Append(rank, line.substr(at, tag->begin - at));
    rank = tag->rank;
    at = tag->end;
    tag = NextTag(line, at);
  }
  Append(rank, line.substr(at));
  if (!ended) return;
  sink_(rank, open_[rank]);
  open_[rank].clear();
}

void RankLines::Append(int rank, std::string_view text) {
  std::string& line = open_[rank];
  line += text;
  if (line.size() < kLongestLine) return;
  sink_(rank, line);
  line.clear();
}

}  // namespace savior
