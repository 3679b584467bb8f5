// Writes valid messages of every type to FOLDER/request and FOLDER/response, where the fuzzers
// start. Run it after a change of the wire format: build/release/tests/fuzz/make_corpus
// tests/fuzz/corpus
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/common/message_testing.h"

namespace {

void Write(const std::filesystem::path& folder, const std::vector<savior::NamedFrame>& frames) {
  std::filesystem::create_directories(folder);
  for (const auto& [name, frame] : frames) {
    std::ofstream file(folder / name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(frame.span().data()),
               static_cast<std::streamsize>(frame.span().size()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s folder\n", argv[0]);
    return 2;
  }
  Write(std::filesystem::path(argv[1]) / "request", savior::AllRequests());
  Write(std::filesystem::path(argv[1]) / "response", savior::AllReplies());
  return 0;
}
