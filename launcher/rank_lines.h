// Whole lines of single ranks out of the one stream into which mpirun or srun mixes all of them.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace savior {

enum class Starter { kMpirun, kSrun };

// One stream, stdout or stderr. mpirun --tag-output puts "[job,rank]<stdout>:" before every piece
// that it read from a rank, in the middle of a line too; srun --label puts "rank: " before every
// line. Single-threaded.
class RankLines {
 public:
  // A line without its newline; rank -1: a word of mpirun or srun itself.
  using Sink = std::function<void(int rank, std::string_view line)>;

  RankLines(Starter starter, Sink sink) : starter_(starter), sink_(std::move(sink)) {}

  // The next bytes of the stream, cut anywhere.
  void Add(std::string_view bytes);
  // The stream has ended: hands out what had no newline yet.
  void Finish();

 private:
  void TakeLine(std::string_view line, bool ended);
  void TakeTagged(std::string_view line, bool ended);
  void Append(int rank, std::string_view text);

  const Starter starter_;
  const Sink sink_;
  std::string pending_;              // of the stream, up to the next newline
  std::map<int, std::string> open_;  // by rank: its line so far
};

}  // namespace savior
