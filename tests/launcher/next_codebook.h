// What a switch to the next codebook version leaves, in small: a commit that has other codes and
// alignment rows beside those of the newest one, and says that these are in use.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "launcher/inspected_commit.h"
#include "launcher/run_commits.h"
#include "launcher/run_store.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"
#include "worker/tables.h"

namespace savior {

// Alignment rows of version `next`, all that there may be, other codes of level 1 than the version
// before has, and with model.prefix_ngrams rows for all their prefixes.
inline absl::Status WriteNextCodebook(const Config& config, const std::vector<uint64_t>& contents,
                                      const CodebookState& next, int64_t step,
                                      EmbeddingStore& store) {
  const uint32_t version = next.version;
  const Deadline soon = DeadlineIn(std::chrono::seconds(20));
  const ContentLayout layout = ContentLayout::Of(config);
  const auto levels = static_cast<uint32_t>(layout.levels);
  const size_t width = store.tables()[kContentTable].dim;
  std::vector<float> rows(contents.size() * width);
  const TablePull pull = {kContentTable, contents, rows};
  SAVIOR_RETURN_IF_ERROR(store.Pull({&pull, 1}, soon));
  for (size_t i = 0; i < contents.size(); ++i) {
    const float* from = rows.data() + i * width + layout.codes(version - 1);
    float* to = rows.data() + i * width + layout.codes(version);
    for (uint32_t l = 0; l < levels; ++l) {
      const auto codes = static_cast<uint32_t>(config.codebook.codes);
      to[l] = static_cast<float>((static_cast<uint32_t>(from[l]) + (l == 0)) % codes);
    }
  }
  const TablePut put = {kContentTable, contents, rows};
  SAVIOR_RETURN_IF_ERROR(store.Put({&put, 1}, soon));
  std::vector<uint64_t> keys;
  std::vector<float> grads;
  for (uint32_t l = 0; l < levels; ++l) {
    for (uint32_t code = 0; code < config.codebook.codes; ++code) {
      keys.push_back(AlignKey(version, l, code));
      for (size_t d = 0; d < layout.dim; ++d) {
        grads.push_back(((keys.size() + d) % 3 == 0 ? -1.0f : 0.5f) *
                        static_cast<float>(1 + code % 4));
      }
    }
  }
  std::vector<TablePush> pushes = {{kAlignTable, keys, grads}};
  std::set<uint64_t> prefixes;
  for (size_t i = 0; i < contents.size() && config.model.prefix_ngrams; ++i) {
    ForEachPrefix(
        next.build, std::span(rows).subspan(i * width + layout.codes(version), layout.levels),
        static_cast<uint64_t>(config.codebook.codes), [&](uint64_t key) { prefixes.insert(key); });
  }
  const std::vector<uint64_t> prefix_keys(prefixes.begin(), prefixes.end());
  std::vector<float> prefix_grads(prefix_keys.size() * layout.dim);
  for (size_t i = 0; i < prefix_grads.size(); ++i) prefix_grads[i] = i % 3 == 0 ? -1.0f : 0.5f;
  if (!prefix_keys.empty()) pushes.push_back({kPrefixTable, prefix_keys, prefix_grads});
  return store.Push(step, pushes, soon);
}

// Goes over to the next version in the newest commit of `config`'s run: a commit of the step after
// it, which it returns. Dense weights, and all rows of the version before, are those of that one.
inline Commit CommitNextCodebook(const Config& config) {
  const std::filesystem::path commits = std::filesystem::path(config.run.dir) / "commits";
  auto from = NewestCommit(commits);
  EXPECT_TRUE(from.ok()) << from.status();
  std::vector<uint64_t> contents;
  {
    const auto inspected = InspectedCommit::Open(from->folder);
    EXPECT_TRUE(inspected.ok()) << inspected.status();
    const Tables tables = RowsOf(**inspected);
    for (const auto& [key, row] : tables.at("content")) contents.push_back(key);
  }
  const TempFolder live;
  auto store = OpenLocalStore(config, live / "live", from->folder);
  EXPECT_TRUE(store.ok()) << store.status();
  CommitContents next;
  next.manifest = from->manifest;
  ++next.manifest.step;
  const CodebookState& last = from->manifest.codebook;
  CodebookState& state = next.manifest.codebook;
  state = {last.version + 1, next.manifest.step, last.version, /*probation=*/true};
  if (config.model.prefix_ngrams) {
    state.builds = state.build = last.builds + 1;
    state.previous_build = last.build;
  }
  const absl::Status written =
      WriteNextCodebook(config, contents, state, next.manifest.step, (*store)->store());
  EXPECT_TRUE(written.ok()) << written;
  next.dense = ReadTensorFile(from->folder / kDenseFile).value();
  next.resolved = ReadFile(from->folder / kResolvedFile).value();
  DigestCache digests;
  const TensorFile encoder = ReadTensorFile(from->folder / kEncoderFile).value();
  const TensorFile codebook = ReadTensorFile(from->folder / kCodebookFile).value();
  TensorFile refreshed = codebook;
  refreshed.metadata["learnt_until"] = "1700956801";  // so that it is another file
  RunCommits writer(commits, store->get(), &digests,
                    {{kEncoderFile, encoder},
                     {kCodebookFile, std::move(refreshed)},
                     {kPreviousCodebookFile, codebook}});
  const absl::Status begun = writer.Begin(std::move(next));
  EXPECT_TRUE(begun.ok()) << begun;
  const auto outcome = writer.Take(/*wait=*/true);
  EXPECT_TRUE(outcome && outcome->status.ok());
  auto commit = NewestCommit(commits);
  EXPECT_TRUE(commit.ok()) << commit.status();
  return *std::move(commit);
}

}  // namespace savior
