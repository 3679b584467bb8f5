// `savior generate`: raw data of any size with planted truth, for tests and benches.
//
// Items belong to content clusters: an item's vector is its cluster's centre with noise, its
// quality its cluster's quality with noise. Users have favourite clusters. A candidate is clicked
// with probability sigmoid(bias + favourite + quality): so what is good about a new item can be
// told from its content and the user's history, and from nothing else in the data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status.h"

namespace savior {

struct GenerateOptions {
  // Must not exist, be empty, or hold generated data, which is replaced.
  std::filesystem::path out;
  uint64_t seed = 1;
  int64_t users = 2000;                // > 0
  int64_t items = 2000;                // > 0
  int64_t days = 28;                   // > 0
  double requests_per_user_day = 1.0;  // > 0
  int64_t candidates = 10;  // impressions per request, different items; in [1, items / 2]
  int64_t clusters = 32;    // in [1, items]
  int64_t vector_dim = 64;  // of modality "text"; > 0
  int64_t image_dim = 0;    // of modality "image"; 0: there is none
  double noise = 0.5;       // length of the noise in a vector, against 1 of the centre; >= 0
  double zipf = 0.8;        // exponent of popularity; >= 0
  double arrivals = 0.3;    // share of items listed during the period; in [0, 1)
  double drift = 0.0;       // quarter turns by which centres turn over the period, for items listed
                            // then; in [0, 1]
  double no_vector = 0.0;   // share of items without a vector; in [0, 1]
  int64_t start = 1'700'006'400;  // unix seconds of the first midnight, UTC; a multiple of a day
  int64_t rows_per_part = 5'000'000;  // of a part file; > 0
};

struct GenerateSummary {
  int64_t impressions = 0, requests = 0, behaviours = 0, clicks = 0, conversions = 0;
};

// Writes impressions, behaviours, items and item_vectors as folders of part files, and beside them
// the truth: truth.json (options, cluster qualities, constants), truth/items.parquet (item_id,
// cluster, quality) and truth/users.parquet (user_id, favourites). Memory: about 60 bytes per item.
// Same options, same bytes. Shows progress. kInvalidArgument names an option out of bounds.
[[nodiscard]] absl::StatusOr<GenerateSummary> Generate(const GenerateOptions& options);

}  // namespace savior
