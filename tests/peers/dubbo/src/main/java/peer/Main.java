package peer;

import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/**
 * A provider of Dubbo that registers itself in ZooKeeper, and a consumer that knows nothing but one address.
 *
 * <p>{@code server -with-stdin ZOOKEEPER APPLICATION PROTOCOL PORT [WEIGHT]}: registers by interface and by application.
 *
 * <p>{@code client -with-stdin URL CALLS}: makes so many calls, and writes a line of JSON: calls that went well by the
 * instance that answered, and others by their error. Both end with their standard input.
 */
public class Main {
  public static void main(String[] args) throws Exception {
    endsWithInput();
    // What is said on the way is no report.
    PrintStream reports = System.out;
    System.setOut(System.err);
    ApplicationConfig application = new ApplicationConfig(args[0].equals("server") ? args[3] : "somebody");
    // Several run on one machine.
    application.setQosEnable(false);
    if (args[0].equals("server")) {
      serve(application, args);
    } else {
      call(application, args[2], Integer.parseInt(args[3]), reports);
    }
  }

  private static void serve(ApplicationConfig application, String[] args) {
    application.setRegisterMode("all");
    RegistryConfig registry = new RegistryConfig("zookeeper://" + args[2]);
    registry.setTimeout(10_000);
    ProtocolConfig protocol = new ProtocolConfig(args[4], Integer.parseInt(args[5]));
    protocol.setHost("127.0.0.1");
    ServiceConfig<Orders> service = new ServiceConfig<>();
    service.setInterface(Orders.class);
    service.setRef(question -> args[5] + " " + question);
    if (args.length > 6) {
      service.setWeight(Integer.parseInt(args[6]));
    }
    DubboBootstrap.getInstance()
        .application(application)
        .registry(registry)
        .protocol(protocol)
        .service(service)
        .start()
        .await();
  }

  private static void call(ApplicationConfig application, String url, int calls, PrintStream reports) {
    ReferenceConfig<Orders> reference = new ReferenceConfig<>();
    reference.setInterface(Orders.class);
    reference.setUrl(url);
    reference.setCheck(false);
    reference.setRetries(0);
    DubboBootstrap.getInstance().application(application).reference(reference).start();
    Orders orders = reference.get();
    Map<String, Integer> servers = new TreeMap<>(), errors = new TreeMap<>();
    for (int i = 0; i < calls; i++) {
      try {
        servers.merge(orders.who("now").split(" ")[0], 1, Integer::sum);
      } catch (Exception error) {
        errors.merge(String.valueOf(error.getMessage()), 1, Integer::sum);
      }
    }
    reports.println("{\"done\":true,\"servers\":" + json(servers) + ",\"errors\":" + json(errors) + "}");
  }

  private static String json(Map<String, Integer> counts) {
    return counts.entrySet().stream()
        .map(count -> "\"" + count.getKey().replaceAll("[^ -!#-\\[\\]-~]", "?") + "\":" + count.getValue())
        .collect(Collectors.joining(",", "{", "}"));
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
}
