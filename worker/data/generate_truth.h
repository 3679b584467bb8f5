// The planted truth of generated data: a pure function of the options.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "common/random.h"
#include "worker/data/generate.h"

namespace savior {

inline constexpr int64_t kFavourites = 3;

// Users and items are numbered from 0 here; the ids that the data shows are neither dense nor start
// at 0. Thread-safe: immutable.
class PlantedTruth {
 public:
  // Terms of the logit of a click.
  static constexpr double kClickBias = -1.5;
  static constexpr double kFavourite = 1.5;       // added if the item's cluster is a favourite
  static constexpr double kClusterQuality = 1.0;  // standard deviation
  static constexpr double kItemQuality = 0.3;     // standard deviation around the cluster's
  // Terms of the logit of a conversion given a click.
  static constexpr double kConversionBias = -1.0;
  static constexpr double kConversionFavourite = 0.5;

  // `options` must be within bounds.
  explicit PlantedTruth(const GenerateOptions& options);

  int64_t item_id(int64_t item) const { return 1000 + 3 * item; }
  int64_t user_id(int64_t user) const { return 500 + 7 * user; }
  int64_t listed_at(int64_t item) const { return listed_at_[static_cast<size_t>(item)]; }
  int32_t cluster(int64_t item) const { return clusters_[static_cast<size_t>(item)]; }
  float quality(int64_t item) const { return qualities_[static_cast<size_t>(item)]; }
  bool has_vector(int64_t item) const;
  std::span<const float> cluster_qualities() const { return cluster_qualities_; }
  // May repeat.
  std::array<int32_t, kFavourites> favourites(int64_t user) const;

  double ClickProbability(int64_t user, int64_t item) const;
  // Given a click.
  double ConversionProbability(int64_t user, int64_t item) const;

  // Writes the item's vector of modality 0 (text) or 1 (image) [dim].
  void Vector(int64_t item, uint64_t modality, std::span<float> vector) const;

  // A candidate that is listed at `time`: by popularity, half of them out of a favourite cluster.
  int64_t Draw(Random* random, std::span<const int32_t> favourites, int64_t time) const;

 private:
  bool IsFavourite(int64_t user, int64_t item) const;

  const GenerateOptions options_;
  std::vector<int64_t> listed_at_;        // [items]
  std::vector<int32_t> clusters_;         // [items]
  std::vector<float> qualities_;          // [items]
  std::vector<float> cluster_qualities_;  // [clusters]
  std::vector<int32_t> by_cluster_;       // [items] items ordered by cluster
  std::vector<double> popularity_;        // [items + 1] running sum of popularity over by_cluster_
  std::vector<int64_t> cluster_begins_;   // [clusters + 1] into by_cluster_
  std::vector<int32_t> listed_before_;    // items listed before the period; not empty
};

}  // namespace savior
