#include "worker/data/generate_truth.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "worker/data/log_manifest.h"

namespace savior {
namespace {

// Streams of randomness, one per kind of thing.
enum class Stream : uint64_t { kCluster = 1, kItem, kUser, kCentre, kVector, kShuffle };

Random Draws(const GenerateOptions& options, Stream stream, int64_t number) {
  return Random(options.seed, MixTwo(static_cast<uint64_t>(stream), static_cast<uint64_t>(number)));
}

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// A random direction: its expected length is 1.
void AddNoise(Random random, double scale, std::span<float> vector) {
  const double each = scale / std::sqrt(static_cast<double>(vector.size()));
  for (float& x : vector) x += static_cast<float>(each * random.Normal());
}

}  // namespace

PlantedTruth::PlantedTruth(const GenerateOptions& options) : options_(options) {
  for (int64_t c = 0; c < options.clusters; ++c) {
    cluster_qualities_.push_back(
        static_cast<float>(kClusterQuality * Draws(options, Stream::kCluster, c).Normal()));
  }
  constexpr int64_t kYear = 365 * kSecondsPerDay;
  const int64_t period = options.days * kSecondsPerDay;
  for (int64_t i = 0; i < options.items; ++i) {
    Random random = Draws(options, Stream::kItem, i);
    const auto cluster =
        static_cast<int32_t>(random.Below(static_cast<uint64_t>(options.clusters)));
    clusters_.push_back(cluster);
    qualities_.push_back(cluster_qualities_[static_cast<size_t>(cluster)] +
                         static_cast<float>(kItemQuality * random.Normal()));
    // Item 0 is always there, so that there is something to show on the first day.
    const bool arrives = random.Uniform() < options.arrivals && i > 0;
    const auto offset = static_cast<int64_t>(random.Uniform() * (arrives ? period : kYear));
    listed_at_.push_back(arrives ? options.start + offset
                                 : std::max<int64_t>(0, options.start - 1 - offset));
    if (!arrives) listed_before_.push_back(static_cast<int32_t>(i));
  }

  // Popularity ranks are a permutation that knows nothing of cluster, quality or arrival.
  std::vector<int32_t> rank(static_cast<size_t>(options.items));
  std::iota(rank.begin(), rank.end(), 0);
  by_cluster_ = rank;
  Random shuffle = Draws(options, Stream::kShuffle, 0);
  for (size_t i = rank.size(); i > 1; --i) std::swap(rank[i - 1], rank[shuffle.Below(i)]);
  std::stable_sort(by_cluster_.begin(), by_cluster_.end(),
                   [this](int32_t a, int32_t b) { return cluster(a) < cluster(b); });
  popularity_.push_back(0.0);
  cluster_begins_.assign(static_cast<size_t>(options.clusters) + 1, 0);
  for (const int32_t item : by_cluster_) {
    const double weight = std::pow(10.0 + rank[static_cast<size_t>(item)], -options.zipf);
    popularity_.push_back(popularity_.back() + weight);
    ++cluster_begins_[static_cast<size_t>(cluster(item)) + 1];
  }
  std::partial_sum(cluster_begins_.begin(), cluster_begins_.end(), cluster_begins_.begin());
}

bool PlantedTruth::has_vector(int64_t item) const {
  return Draws(options_, Stream::kVector, item).Uniform() >= options_.no_vector;
}

std::array<int32_t, kFavourites> PlantedTruth::favourites(int64_t user) const {
  Random random = Draws(options_, Stream::kUser, user);
  std::array<int32_t, kFavourites> favourites;
  for (int32_t& favourite : favourites) {
    favourite = static_cast<int32_t>(random.Below(static_cast<uint64_t>(options_.clusters)));
  }
  return favourites;
}

bool PlantedTruth::IsFavourite(int64_t user, int64_t item) const {
  const auto all = favourites(user);
  return std::find(all.begin(), all.end(), cluster(item)) != all.end();
}

double PlantedTruth::ClickProbability(int64_t user, int64_t item) const {
  return Sigmoid(kClickBias + (IsFavourite(user, item) ? kFavourite : 0.0) + quality(item));
}

double PlantedTruth::ConversionProbability(int64_t user, int64_t item) const {
  return Sigmoid(kConversionBias + (IsFavourite(user, item) ? kConversionFavourite : 0.0) +
                 quality(item));
}

void PlantedTruth::Vector(int64_t item, uint64_t modality, std::span<float> vector) const {
  // Centres turn from one random direction towards another as the period goes by.
  const auto key = static_cast<int64_t>(modality) * options_.clusters + cluster(item);
  const double passed = std::clamp(static_cast<double>(listed_at(item) - options_.start) /
                                       static_cast<double>(options_.days * kSecondsPerDay),
                                   0.0, 1.0);
  const double angle = options_.drift * passed * std::numbers::pi / 2;
  std::fill(vector.begin(), vector.end(), 0.0f);
  AddNoise(Draws(options_, Stream::kCentre, 2 * key), std::cos(angle), vector);
  AddNoise(Draws(options_, Stream::kCentre, 2 * key + 1), std::sin(angle), vector);
  AddNoise(Draws(options_, Stream::kVector, (item + 1) * 2 + static_cast<int64_t>(modality)),
           options_.noise, vector);
}

int64_t PlantedTruth::Draw(Random* random, std::span<const int32_t> favourites,
                           int64_t time) const {
  auto begin = popularity_.begin();
  auto end = popularity_.end() - 1;
  if (random->Uniform() < 0.5) {
    const auto cluster = static_cast<size_t>(favourites[random->Below(favourites.size())]);
    if (cluster_begins_[cluster] < cluster_begins_[cluster + 1]) {
      end = begin + cluster_begins_[cluster + 1];
      begin += cluster_begins_[cluster];
    }
  }
  // Few draws meet an item of the future; when many do, the answer is any item of the past.
  for (int attempt = 0; attempt < 16; ++attempt) {
    const double point = *begin + random->Uniform() * (*end - *begin);
    const auto above = std::upper_bound(begin, end, point);
    const int64_t item = by_cluster_[static_cast<size_t>(above - popularity_.begin()) - 1];
    if (listed_at(item) <= time) return item;
  }
  return listed_before_[random->Below(listed_before_.size())];
}

}  // namespace savior
