// SPDX-License-Identifier: Apache-2.0
// A double of the few calls of rclcpp that the client in docs/CLIENTS.md makes, with the signatures of the real ones.
// The service answers at once: with the question it was given, or not at all for the question "nothing".
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

namespace rclcpp
{
enum class FutureReturnCode { SUCCESS, INTERRUPTED, TIMEOUT };

template<typename ServiceT>
class Client
{
public:
  using SharedRequest = std::shared_ptr<typename ServiceT::Request>;
  using SharedResponse = std::shared_ptr<typename ServiceT::Response>;

  struct FutureAndRequestId
  {
    std::future<SharedResponse> future;
    SharedResponse get() {return future.get();}
  };

  explicit Client(std::string name)
  : name_(std::move(name)) {}

  template<typename RepT, typename RatioT>
  bool wait_for_service(std::chrono::duration<RepT, RatioT>) {return true;}

  const char * get_service_name() const {return name_.c_str();}

  FutureAndRequestId async_send_request(SharedRequest request)
  {
    std::promise<SharedResponse> promise;
    const auto response = std::make_shared<typename ServiceT::Response>();
    response->success = request->question != "nothing";
    response->status = response->success ? ServiceT::Response::OK : ServiceT::Response::NO_IMAGE;
    response->message = response->success ? "" : "no image yet";
    response->answer = "asked: " + request->question;
    response->value = 1.5;
    response->unit = "m";
    response->std = 0.25;
    response->points.resize(1);
    response->points[0].z = 1.5;
    response->header.frame_id = "camera";
    promise.set_value(response);
    return {promise.get_future()};
  }

private:
  std::string name_;
};

class Node
{
public:
  explicit Node(const std::string &) {}
  static std::shared_ptr<Node> make_shared(const std::string & name) {return std::make_shared<Node>(name);}

  template<typename ServiceT>
  std::shared_ptr<Client<ServiceT>> create_client(const std::string & name)
  {
    return std::make_shared<Client<ServiceT>>(name);
  }
};

inline std::vector<std::string> init_and_remove_ros_arguments(int argc, char const * const * argv)
{
  return {argv, argv + argc};
}

template<typename FutureT, typename RepT, typename RatioT>
FutureReturnCode spin_until_future_complete(
  const std::shared_ptr<Node> &, const FutureT &, std::chrono::duration<RepT, RatioT>)
{
  return FutureReturnCode::SUCCESS;
}

inline bool shutdown() {return true;}
}  // namespace rclcpp
