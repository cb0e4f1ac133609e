package peer;

import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.discovery.DiscoveryClient;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/**
 * A service of Spring Cloud that registers itself, and a client that asks Spring Cloud for the instances of one.
 *
 * <p>{@code server -with-stdin REGISTRY ADDRESS NAME PORT [PROPERTY=VALUE...]}: answers GET with its port.
 *
 * <p>{@code client -with-stdin REGISTRY ADDRESS NAME}: writes a line of JSON whenever something else is found: the
 * addresses of all instances, and what those answered that answered. REGISTRY is zookeeper, consul or eureka. Both end
 * with their standard input.
 */
@SpringBootApplication
public class Main {
  public static void main(String[] args) throws Exception {
    endsWithInput();
    // What is said on the way is no report.
    PrintStream reports = System.out;
    System.setOut(System.err);
    String registry = args[2], address = args[3], name = args[4];
    List<String> properties = new ArrayList<>();
    properties.add("spring.cloud.zookeeper.enabled=" + registry.equals("zookeeper"));
    properties.add("spring.cloud.consul.enabled=" + registry.equals("consul"));
    properties.add("spring.cloud.zookeeper.connect-string=" + address);
    properties.add("spring.cloud.zookeeper.discovery.instance-host=127.0.0.1");
    properties.add("spring.cloud.consul.host=" + address.split(":")[0]);
    properties.add("spring.cloud.consul.port=" + address.split(":")[1]);
    properties.add("spring.cloud.consul.discovery.hostname=127.0.0.1");
    properties.add("spring.cloud.consul.discovery.heartbeat.enabled=true");
    properties.add("spring.cloud.consul.discovery.heartbeat.ttl=3s");
    properties.add("spring.cloud.consul.config.enabled=false");
    properties.add("eureka.client.enabled=" + registry.equals("eureka"));
    properties.add("eureka.client.service-url.defaultZone=http://" + address + "/eureka/");
    properties.add("eureka.client.registry-fetch-interval-seconds=1");
    properties.add("eureka.client.initial-instance-info-replication-interval-seconds=0");
    properties.add("eureka.instance.hostname=127.0.0.1");
    properties.add("eureka.instance.ip-address=127.0.0.1");
    properties.add("eureka.instance.lease-renewal-interval-in-seconds=1");
    properties.add("eureka.instance.lease-expiration-duration-in-seconds=3");
    boolean server = args[0].equals("server");
    properties.add("spring.application.name=" + (server ? name : "somebody"));
    if (server) {
      properties.add("server.address=127.0.0.1");
      properties.add("server.port=" + args[5]);
      // Instances of one name on one machine, told apart as on many.
      properties.add("spring.cloud.consul.discovery.instance-id=" + name + "-" + args[5]);
      properties.add("eureka.instance.instance-id=" + name + "-" + args[5]);
      for (int i = 6; i < args.length; i++) {
        properties.add(args[i]);
      }
    } else {
      properties.add("spring.cloud.service-registry.auto-registration.enabled=false");
      properties.add("eureka.client.register-with-eureka=false");
    }
    ConfigurableApplicationContext context =
        new SpringApplicationBuilder(Main.class)
            .web(server ? WebApplicationType.SERVLET : WebApplicationType.NONE)
            .properties(properties.toArray(new String[0]))
            .properties("spring.main.banner-mode=off", "logging.level.root=warn")
            .run();
    if (!server) {
      look(context.getBean(DiscoveryClient.class), name, reports);
    }
  }

  private static void look(DiscoveryClient discovery, String name, PrintStream reports)
      throws InterruptedException {
    HttpClient http = HttpClient.newHttpClient();
    String last = "";
    while (true) {
      List<String> found = new ArrayList<>(), answers = new ArrayList<>();
      for (ServiceInstance instance : discovery.getInstances(name)) {
        found.add(instance.getHost() + ":" + instance.getPort());
        try {
          HttpRequest request = HttpRequest.newBuilder(URI.create(instance.getUri() + "/")).build();
          answers.add(http.send(request, HttpResponse.BodyHandlers.ofString()).body());
        } catch (IOException error) {
          System.err.println(instance.getUri() + ": " + error);
        }
      }
      String report = "{\"done\":false,\"instances\":" + list(found) + ",\"answers\":" + list(answers) + "}";
      if (!report.equals(last)) {
        reports.println(report);
        last = report;
      }
      Thread.sleep(50);
    }
  }

  private static String list(List<String> words) {
    return words.stream().sorted().map(word -> "\"" + word + "\"").collect(Collectors.joining(",", "[", "]"));
  }

  private static void endsWithInput() {
    Thread thread =
        new Thread(
            () -> {
              try {
                System.in.transferTo(OutputStream.nullOutputStream());
              } catch (IOException closed) {
                // It has ended.
              }
              Runtime.getRuntime().halt(0);
            });
    thread.setDaemon(true);
    thread.start();
  }

  /** What its instances answer. */
  @RestController
  static class Answers {
    @Value("${server.port:0}")
    private String port;

    @GetMapping("/")
    String port() {
      return port;
    }
  }
}
